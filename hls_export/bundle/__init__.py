# SPDX-License-Identifier: Apache-2.0
"""The bundle: one folder with everything an FPGA project needs of a network."""

from hls_export.bundle.golden import GoldenOptions
from hls_export.bundle.write import ExportOptions, export_bundle

__all__ = ["ExportOptions", "GoldenOptions", "export_bundle"]
