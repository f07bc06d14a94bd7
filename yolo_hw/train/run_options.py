# SPDX-License-Identifier: Apache-2.0
"""All options of a detector's training run, and their file ``args.toml``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomlkit
from cattrs.preconf.tomlkit import make_converter
from tomlkit.exceptions import TOMLKitError

from yolo_hw.atomic import atomic_file
from yolo_hw.data.preprocess import Resize
from yolo_hw.train.config import TrainConfig
from yolo_hw.train.errors import TrainError

ARGS = "args.toml"

_CONVERTER = make_converter(forbid_extra_keys=True)
_CONVERTER.register_unstructure_hook(Path, str)
_CONVERTER.register_structure_hook(Path, lambda text, _: Path(text))


@dataclass(frozen=True, kw_only=True)
class DetectorRun:
    """What to train, on what, and where to write it."""

    cfg: Path
    """The network."""
    data: Path
    """Training images, any format of `yolo_hw.data.open_dataset`."""
    train_split: str | None = None
    """Part of `data` to train on; None takes ``train`` where the format has it, else all."""
    val: Path | None = None
    """Images to measure on; None takes `val_split` of `data`."""
    val_split: str | None = None
    """Part of the validation images; None takes ``val`` where the format has it, else all."""
    weights: Path | None = None
    """Where to start: a darknet weights file, whole or of the first layers, or a checkpoint; None starts anew."""
    names: Path | None = None
    """Class names, where the data have none."""
    size: tuple[int, int] | None = None
    """(height, width) of the input; None takes the cfg's."""
    resize: Resize = Resize.STRETCH
    """How images are brought to that size."""
    cache_bytes: int = 2 << 30
    """Memory for decoded images, of all processes together."""
    threads: int = 0
    """Processor threads of torch in each process, which may change last bits; 0 leaves torch's own choice."""
    every_epochs: int = 1
    """Epochs between measurements."""
    patience: int = 0
    """Epochs without a fitter model after which the run ends; 0 lets it run to its end."""
    save_steps: int = 200
    """Steps between saves within an epoch."""
    loss: dict[str, float | str] = field(default_factory=dict)
    """Fields of `LossConfig` or `RegionConfig` that replace what the cfg's heads say."""
    extras: dict[str, str] = field(default_factory=dict)
    """Options of what the caller of `train_detector` adds to the run, by name; a resumed run has the same."""
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (
            ("threads", 0),
            ("cache_bytes", 0),
            ("every_epochs", 1),
            ("patience", 0),
            ("save_steps", 1),
        ):
            if getattr(self, name) < least:
                raise TrainError(f"DetectorRun: {name} must be at least {least}, got {getattr(self, name)}")


def write_run(folder: Path, run: DetectorRun) -> None:
    """Write the options as ``args.toml``, paths made absolute; those that are None are left out."""
    paths: dict[str, Any] = {name: value.absolute() for name, value in vars(run).items() if isinstance(value, Path)}
    run = replace(run, **paths)
    with atomic_file(folder / ARGS) as temporary:
        temporary.write_text(tomlkit.dumps(_without_none(_CONVERTER.unstructure(run))), "utf-8")


def read_run(folder: Path) -> DetectorRun:
    """Read the options of an earlier run.

    Raises:
        TrainError: There is none, or it is damaged; names the entry.
    """
    path = folder / ARGS
    try:
        return _CONVERTER.structure(tomlkit.parse(path.read_text("utf-8")).unwrap(), DetectorRun)
    except FileNotFoundError:
        raise TrainError(f"{folder}: must be the folder of a run, there is no {ARGS}") from None
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise TrainError(f"{path}: cannot be read: {error}") from None
    except Exception as error:  # cattrs raises groups of whatever the entries' types raise
        raise TrainError(f"{path}: not the options of a run: {_first(error)}") from None


def _without_none(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def _first(error: BaseException) -> BaseException:
    """The first leaf of a tree of errors, with the notes that tell where it is."""
    while getattr(error, "exceptions", ()):
        error = error.exceptions[0]  # type: ignore[attr-defined]
    return error
