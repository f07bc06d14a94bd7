# SPDX-License-Identifier: Apache-2.0
"""From an integer graph to a verified bundle for the FPGA. Needs no torch."""

from hls_export.bundle import ExportOptions, GoldenOptions, export_bundle
from hls_export.config import AcceleratorConfig
from hls_export.verify import VerifyReport, open_bundle, verify_bundle

__all__ = [
    "AcceleratorConfig",
    "ExportOptions",
    "GoldenOptions",
    "VerifyReport",
    "export_bundle",
    "open_bundle",
    "verify_bundle",
]
