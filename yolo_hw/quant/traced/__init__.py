# SPDX-License-Identifier: Apache-2.0
"""From any torch module to the folded graph: `capture`, `operators`, `gather` and `pack` in this order."""
