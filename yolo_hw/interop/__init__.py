# SPDX-License-Identifier: Apache-2.0
"""Networks from and to other tools' formats."""
