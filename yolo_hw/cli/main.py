# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw``: the command line. One module per verb, loaded when the verb is used."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from typing import Any, cast

import click

from yolo_hw import __version__
from yolo_hw.errors import YoloHwError

VERBS = {
    "info": "Show the layers of a network.",
    "train": "Train a detector.",
    "qat": "Train a detector in the integers it will be computed in.",
    "detect": "Find objects in images.",
    "eval": "Measure accuracy on a data set.",
    "sensitivity": "Measure what pruning each layer costs, and what is safe to prune.",
    "prune": "Make a trained network smaller: channels, blocks or weights.",
    "quantise": "Quantise a network, report on its layers, choose word lengths.",
    "compile": "Bring a trained network into a verified FPGA bundle.",
    "onnx": "Write a network as ONNX, in float or in integers.",
    "verify": "Check a bundle from its files to the simulated accelerator.",
    "inspect": "Show what a bundle holds.",
    "data": "Check, convert, split and generate data sets; find anchors.",
    "demo": "Do all of it with the embedded network.",
}
"""Verb -> one-line help; the module is ``yolo_hw.cli.<verb>``, its command ``command``."""

EXIT_DIFFERENCE = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class VerbGroup(click.Group):
    """Loads a verb's module on use, so that ``--help`` needs no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the flow."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and return its command."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"yolo_hw.cli.{cmd_name}")
        return cast(click.Command, module.command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Run; every error that comes from the input is one line and exit code 2."""
        kwargs["standalone_mode"] = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that half-written outputs are removed
        try:
            sys.exit(super().main(*args, **kwargs) or 0)
        except click.exceptions.Abort:
            _fail("interrupted", EXIT_INTERRUPTED)
        except KeyboardInterrupt:
            _fail("interrupted", EXIT_INTERRUPTED)
        except click.ClickException as error:
            error.show()
            sys.exit(EXIT_BAD_INPUT)
        except YoloHwError as error:
            _fail(str(error), EXIT_BAD_INPUT)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _fail(f"{place}{error.strerror or error}", EXIT_BAD_INPUT)


@click.group(
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 a check found a difference, 2 bad input, 130 interrupted.",
)
@click.version_option(__version__, prog_name="yolo-hw")
def main() -> None:
    """From a trained YOLO to a verified integer accelerator for an FPGA."""


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
