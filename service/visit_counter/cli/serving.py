"""`serve`, `healthcheck` and `config`: the service itself, and whether it answers."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
from dataclasses import replace
from typing import Any

from visit_counter.cli.output import say
from visit_counter.cli.parsers import command
from visit_counter.config.settings import Settings
from visit_counter.config.values import parse_workers
from visit_counter.errors import StartError


def add_commands(commands: Any) -> None:
    command(commands, "serve", serve, "run the service").add_argument(
        "--workers", type=workers_given, metavar="N", help="how many processes count, or auto"
    )
    health = command(commands, "healthcheck", healthcheck, "exit 0 if the service here answers")
    health.add_argument("--ready", action="store_true", help="ask whether it can count")
    command(commands, "status", show_status, "what is wrong with the service here, if anything")
    config = command(commands, "config", show_config, "show the settings in force")
    config.add_argument("--markdown", action="store_true", help="all settings as a table")


def serve(options: argparse.Namespace, settings: Settings) -> int:
    # Imported here: the other commands need neither the server nor its event loop. What a process
    # of the service imports in which order is most of the time that its start takes.
    from visit_counter import logs
    from visit_counter.workers.messages import Inherited

    inherited = Inherited.from_env(os.environ)
    settings = replace(settings, workers=options.workers or settings.workers)
    try:
        logs.configure(settings.log_format, worker=inherited is not None)
    except RuntimeError as error:
        raise StartError(
            f"no thread can be started here ({error}), so nothing is counted: raise the limit of "
            "processes (TasksMax= of systemd, --pids-limit of docker run), or let the sandbox "
            "allow clone3 or refuse it with ENOSYS"
        ) from None
    with asyncio.Runner(loop_factory=event_loop) as runner:
        if settings.workers > 1 and inherited is None:
            from visit_counter.workers import supervisor

            return runner.run(supervisor.serve(settings))
        from visit_counter import launch

        return runner.run(launch.serve(settings, inherited))


def event_loop() -> asyncio.AbstractEventLoop:
    """That of uvloop; Python's own, which polls in the oldest way if it must, where a sandbox
    forbids a system call of uvloop's. Raises StartError where it forbids what both need."""
    import structlog
    import uvloop

    logger = logging.getLogger("asyncio")
    logger.disabled = True  # it tells of the loop that failed
    try:
        for each in socket.socketpair():  # by which both hear of signals
            each.close()
    except OSError as error:
        raise StartError(
            f"no event loop runs here ({error}), so nothing is counted: let the sandbox allow the "
            "system call socketpair"
        ) from None
    try:
        return uvloop.new_event_loop()
    except OSError as error:
        structlog.get_logger().warning(
            f"uvloop does not run here ({error}), so Python's own event loop does: hits count, and "
            "take more time of the processor"
        )
        return asyncio.new_event_loop()
    finally:
        logger.disabled = False


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


def show_status(options: argparse.Namespace, settings: Settings) -> int:
    """What /readyz tells admins, in sentences; exit code 1 while hits are refused."""
    from visit_counter.cli.calls import here, ready, token_of

    token = None if settings.ops_listen else token_of(settings)
    told = ready(here(settings, ops=True), token)
    say(told["status"])
    wrong_token = [told["details"]] if "details" in told else []
    for sentence in (*wrong_token, *told.get("faults", ()), *told.get("hints", ())):
        say(f"- {sentence}")
    return int(told["status"] == "unavailable")


def show_config(options: argparse.Namespace, settings: Settings) -> int:
    if options.markdown:
        print(Settings.table())
        return 0
    for name, value in settings.shown().items():
        say(f"{name}={value}")
    return 0
