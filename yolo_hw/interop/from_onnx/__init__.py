# SPDX-License-Identifier: Apache-2.0
"""The stages of `yolo_hw.interop.onnx_import`, in order.

`document` reads and checks the file, `patterns` joins what exporters take apart, `tail` finds where the network ends
and its decoding begins, `builder` makes a torch module of the rest. The operators are in `layers`, `arithmetic`,
`moves` and `resize`.
"""
