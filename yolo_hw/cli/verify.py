# SPDX-License-Identifier: Apache-2.0
"""``yolo-hw verify``: every check on a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from hls_export.verify import CHECKS, Status, VerifyReport, verify_bundle
from yolo_hw.cli.console import print_json, print_table, step_progress
from yolo_hw.cli.main import EXIT_DIFFERENCE
from yolo_hw.cli.options import FilePath

SkippableCheck = click.Choice(["files", *CHECKS])


@click.command("verify", epilog="Example: yolo-hw verify build/")
@click.argument("bundle", type=FilePath)
@click.option(
    "--skip", multiple=True, type=SkippableCheck, help="A check to leave out, for example csim; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: Path, skip: tuple[str, ...], as_json: bool) -> int:
    """Check files, schema, proofs, parameters, memory map and golden vectors, and run the accelerator's C++.

    Exit code 1 if any check fails, 2 if BUNDLE is no bundle.
    """
    with step_progress() as progress:
        report = verify_bundle(bundle, skip=skip, progress=progress.step)
    if as_json:
        print_json(report.to_json())
    else:
        print_table(f"{bundle}", ("check", "<outcome", "<detail"), report_rows(report), verdict(report))
    return 0 if report.passed else EXIT_DIFFERENCE


def verdict(report: VerifyReport) -> str:
    """Return the outcome in one line; checks that were left out are counted."""
    if not report.passed:
        return "THE BUNDLE IS NOT VALID"
    skipped = sum(result.status is Status.SKIPPED for result in report.results)
    return f"{len(report.results) - skipped} checks passed, {skipped} skipped" if skipped else "every check passed"


def report_rows(report: VerifyReport) -> list[tuple[str, str, str]]:
    """Return one row per check."""
    return [(result.name, result.status.value, result.detail) for result in report.results]
