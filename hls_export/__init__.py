# SPDX-License-Identifier: Apache-2.0
"""From an integer graph to a verified bundle for the FPGA. Needs no torch."""
