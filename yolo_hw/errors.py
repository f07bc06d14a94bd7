# SPDX-License-Identifier: Apache-2.0
"""The errors a user can cause, one class per stage of the flow.

Every message names the place, what must hold, what was found and, where it helps, what to do:
``yolov3.cfg:57 [convolutional]: filters must be at least 1, got -3``.
The command line prints the message without a traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class YoloHwError(Exception):
    """Base class of every error that comes from the input, not from a bug in this library."""


class CfgError(YoloHwError):
    """A darknet cfg file that cannot be parsed or describes no valid network."""


class WeightsError(YoloHwError):
    """A weights file that does not belong to the network, is truncated or holds unusable numbers."""


class DataError(YoloHwError):
    """An image, a label file or a data set that cannot be used."""


class PruneError(YoloHwError):
    """A pruning option that names nothing, or a request that no choice of channels can meet."""


class SearchError(YoloHwError):
    """A search that cannot go on: its log is of another one, or what it measured is no number."""


class QuantError(YoloHwError):
    """A quantisation option or a network that has no valid integer form under it."""


class GraphError(YoloHwError):
    """An integer graph that violates one of its invariants."""


class ExportError(YoloHwError):
    """A graph that the accelerator cannot run, or an export option outside its range."""


class OnnxError(YoloHwError):
    """An ONNX file that cannot be read safely, or that has operators without a form in this library."""


class OutputError(YoloHwError):
    """An output path that cannot be written without destroying something else."""


class BundleError(YoloHwError):
    """A bundle on disk that is damaged, incomplete or of an unknown version."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word closest to `word`, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{match[0]}'?" if match else ""
