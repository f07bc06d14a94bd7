# SPDX-License-Identifier: Apache-2.0
"""Networks to and from the formats of other tools (docs/interop.md).

One module per format, imported by its name, because only some of them need torch: `onnx_float` does; `onnx_integer`,
`onnx_qdq` and `qonnx` write an integer graph without it.
"""
