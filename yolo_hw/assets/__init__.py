# SPDX-License-Identifier: Apache-2.0
"""The embedded network: a detector of generated machine parts, made by ``examples/train_default.py``."""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
PARTS_CFG = _FOLDER / "parts.cfg"
PARTS_WEIGHTS = _FOLDER / "parts.weights"
PARTS_NAMES = _FOLDER / "parts.names"

TRAINING_SEED = 1
"""Of the images the weights were trained on."""
HELD_OUT_SEED = 1_000_003
"""Of the images that accuracy is measured on."""
CALIBRATION_SEED = 2_000_003
"""Of the images that formats are chosen on."""
