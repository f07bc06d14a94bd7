# SPDX-License-Identifier: Apache-2.0
"""From integer parameters to memory words and back."""

from hls_export.pack.maps import pack_map, unpack_map
from hls_export.pack.params import BlockReader, ConvLayout, ParamBlock, pack_params

__all__ = ["BlockReader", "ConvLayout", "ParamBlock", "pack_map", "pack_params", "unpack_map"]
