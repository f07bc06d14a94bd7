# SPDX-License-Identifier: Apache-2.0
"""Quantisers of other detector projects, for comparison; docs/quantisers.md says what theirs do and ours."""
