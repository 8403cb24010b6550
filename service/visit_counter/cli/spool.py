"""`spool`: hits that wait for the store, while the service does not run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from visit_counter.cli.output import say
from visit_counter.cli.parsers import command
from visit_counter.config.settings import Settings
from visit_counter.delivery import dead_letters
from visit_counter.disk import files as spool_files
from visit_counter.disk.producer import directories_of


def add_commands(commands: Any) -> None:
    actions = commands.add_parser(
        "spool", help="look at hits that wait for the store"
    ).add_subparsers(title="actions", required=True, metavar="ACTION")
    command(actions, "show", show_spool, "what is in the spool, and damage")
    command(actions, "skip", skip_spool, "set damaged parts aside, so that the service starts")


def show_spool(_options: argparse.Namespace, settings: Settings) -> int:
    reports = [spool_files.describe(spool) for spool in spools_of(settings)]
    for report in reports:
        show_report(report)
    if not any(report.segments for report in reports):
        print("The spool is empty.")
    for producer in directories_of(settings.data_dir):
        if rejected := dead_letters.found(producer / "rejected"):
            say(
                f"{len(rejected)} batches that the store refused for good lie in "
                f"{rejected[0].parent}"
            )
    return 0


def show_report(report: spool_files.Report) -> None:
    for segment in report.segments:
        faults = [f"damaged from byte {at} to {end}" for at, end in segment.damage]
        faults += [f"{segment.torn} bytes of a torn tail"] if segment.torn else []
        say(str(segment.path), f"{segment.records} batches", ", ".join(faults) or "sound")
    for partition, run in report.partitions.items():
        say(f"partition {partition}", f"{run.records} batches, {run.first_seq} to {run.last_seq}")


def skip_spool(_options: argparse.Namespace, settings: Settings) -> int:
    skipped = [each for spool in spools_of(settings) for each in spool_files.skip(spool)]
    for each in skipped:
        say(
            f"{each.path}: kept {each.records} batches, at least {each.lost} may be lost; the "
            f"damaged file is kept as {each.kept_as}"
        )
    if not skipped:
        print("Nothing is damaged.")
    return 0


def spools_of(settings: Settings) -> list[Path]:
    """Each worker has one."""
    found = [producer / "spool" for producer in directories_of(settings.data_dir)]
    return [spool for spool in found if spool.is_dir()]
