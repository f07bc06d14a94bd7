# SPDX-License-Identifier: Apache-2.0
"""Torch modules as ONNX files, by torch's two exporters."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import torch
from torch import nn


def export(module: nn.Module, path, shape, *, dynamo: bool = False, **options):
    """Write a module, in float32 and evaluation mode, for images of a shape [C, H, W]; return the path."""
    module = module.float().eval()
    noise = logging.getLogger("torch.onnx").manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (torch.rand(1, *shape),), str(path), dynamo=dynamo, verbose=False, **options)
    finally:
        logging.disable(noise)
    return path
