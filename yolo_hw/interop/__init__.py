# SPDX-License-Identifier: Apache-2.0
"""Exchange with other frameworks: their models in, ours out, with what stays equal stated."""
