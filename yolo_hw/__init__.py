# SPDX-License-Identifier: Apache-2.0
"""yolo_hw: from a trained YOLO to a verified integer accelerator bundle for an FPGA."""

__version__ = "0.1.0"
