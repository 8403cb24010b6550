"""`serve`, `healthcheck` and `config`: the service itself, and whether it answers."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import replace
from typing import Any

from visit_counter.cli.parsers import command
from visit_counter.config.settings import Settings
from visit_counter.config.values import parse_workers


def add_commands(commands: Any) -> None:
    command(commands, "serve", serve, "run the service").add_argument(
        "--workers", type=workers_given, metavar="N", help="how many processes count, or auto"
    )
    health = command(commands, "healthcheck", healthcheck, "exit 0 if the service here answers")
    health.add_argument("--ready", action="store_true", help="ask whether it can count")
    config = command(commands, "config", show_config, "show the settings in force")
    config.add_argument("--markdown", action="store_true", help="all settings as a table")


def serve(options: argparse.Namespace, settings: Settings) -> int:
    # Imported here: the other commands need neither the server nor its event loop. What a process
    # of the service imports in which order is most of the time that its start takes.
    import uvloop

    from visit_counter import logs
    from visit_counter.workers.messages import Inherited

    inherited = Inherited.from_env(os.environ)
    settings = replace(settings, workers=options.workers or settings.workers)
    logs.configure(settings.log_format, worker=inherited is not None)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if settings.workers > 1 and inherited is None:
            from visit_counter.workers import supervisor

            return runner.run(supervisor.serve(settings))
        from visit_counter import launch

        return runner.run(launch.serve(settings, inherited))


def workers_given(text: str) -> int:
    try:
        return parse_workers(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def healthcheck(options: argparse.Namespace, settings: Settings) -> int:
    from visit_counter.cli.calls import call, here  # which `serve` needs not

    path = "/readyz" if options.ready else "/healthz"
    print(json.dumps(call(here(settings) + path, "GET")))
    return 0


def show_config(options: argparse.Namespace, settings: Settings) -> int:
    if options.markdown:
        print(Settings.table())
        return 0
    for name, value in settings.shown().items():
        print(f"{name}={value}")
    return 0
