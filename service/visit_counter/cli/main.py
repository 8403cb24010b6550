"""The command line: `visit-counter serve`, and what asks a running service.

Parses arguments, calls one thing, prints. Sites are managed through the admin API of the running
service, so it works the same with an embedded store and from another machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import BaseHandler, HTTPRedirectHandler, ProxyHandler, Request, build_opener

from visit_counter.config.admin_token import NAME as TOKEN_NAME
from visit_counter.config.settings import Settings
from visit_counter.config.values import parse_workers
from visit_counter.delivery import dead_letters
from visit_counter.disk import files as spool_files
from visit_counter.disk.producer import directories_of
from visit_counter.errors import SettingsError, StartError, StoreError, VisitCounterError

CALL_S = 10.0
NO_COPY = Path()
FINISH_S = 600.0  # an upgrade converts all that is stored
PERIODS = ("total", "year", "month", "week", "today")


class CallError(VisitCounterError):
    """The service could not be asked, or refused."""


class Unmoved(HTTPRedirectHandler):
    """Follows no redirect: the admin token is for the address that was asked."""

    def redirect_request(self, *_: Any) -> None:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace, Settings], int] = options.run
        return run(options, Settings.from_env(os.environ))
    except SettingsError as error:
        print(f"visit-counter: the settings are wrong.\n{error}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"visit-counter: the store failed during the start: {error}", file=sys.stderr)
        return 1
    except (StartError, CallError) as error:
        print(f"visit-counter: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="visit-counter",
        description="A self-hosted visit counter. `config` shows its settings.",
    )
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command(commands, "serve", serve, "run the service").add_argument(
        "--workers", type=workers_given, metavar="N", help="how many processes count, or auto"
    )
    health = command(commands, "healthcheck", healthcheck, "exit 0 if the service here answers")
    health.add_argument("--ready", action="store_true", help="ask whether it can count")
    config = command(commands, "config", show_config, "show the settings in force")
    config.add_argument("--markdown", action="store_true", help="all settings as a table")
    snippet = named(commands, "snippet", show_snippet, "the lines to put into a page")
    snippet.add_argument("--url", help="the service's address as pages see it")
    snippet.add_argument("--lang", default="", help="languages of the block, such as vi,en")
    snippet.add_argument("--count-only", action="store_true", help="count, and show nothing")
    snippet.add_argument("--pin", action="store_true", help="this version only, with its hash")
    privacy = named(commands, "privacy", show_privacy, "what to tell a site's visitors")
    privacy.add_argument("--url", help="the service's address (default: VISIT_COUNTER_LISTEN here)")
    privacy.add_argument("--lang", choices=("en", "vi"), default="en", help="the text's language")
    spool = commands.add_parser(
        "spool", help="look at hits that wait for the store"
    ).add_subparsers(title="actions", required=True, metavar="ACTION")
    command(spool, "show", show_spool, "what is in the spool, and damage")
    command(spool, "skip", skip_spool, "set damaged parts aside, so that the service starts")
    site_commands(commands.add_parser("site", help="make, show and change sites"))
    upgrade_command(commands)
    return root


def upgrade_command(commands: Any) -> None:
    upgrade = command(
        commands,
        "upgrade",
        upgrade_store,
        "show which versions use the store; finish an upgrade",
    )
    upgrade.add_argument("--url", help="the service's address (default: VISIT_COUNTER_LISTEN here)")
    what = upgrade.add_mutually_exclusive_group()
    what.add_argument(
        "--finish",
        action="store_true",
        help="write the newest form: no way back to an older version",
    )
    what.add_argument(
        "--put-back",
        type=Path,
        nargs="?",
        const=NO_COPY,
        metavar="FILE",
        help="go back to 0.1, while no service runs; FILE: the copy that the upgrade made",
    )
    upgrade.add_argument(
        "--yes", action="store_true", help="do it, instead of showing what it does"
    )


def site_commands(site: argparse.ArgumentParser) -> None:
    site.add_argument("--url", help="the service's address (default: VISIT_COUNTER_LISTEN here)")
    actions = site.add_subparsers(title="actions", required=True, metavar="ACTION")
    named(actions, "add", add_site, "make a site").add_argument(
        "settings", nargs="+", metavar="SETTING=VALUE", help="such as origins=https://example.vn"
    )
    command(actions, "list", list_sites, "list the sites")
    named(actions, "show", show_site, "show a site's settings and counts")
    named(actions, "set", set_site, "change settings").add_argument(
        "settings", nargs="+", metavar="SETTING=VALUE", help="a list is written a,b"
    )
    reset = named(actions, "reset", reset_site, "count from 0; prints how to undo it")
    reset.add_argument("--reason", default="", help="why, for the log")
    reset.add_argument("--yes", action="store_true", help="do it, instead of showing what would go")
    undo = named(actions, "undo", undo_reset, "undo a reset")
    undo.add_argument("operation", help="what `reset` printed")
    seed = named(actions, "seed", seed_site, "add an older counter's numbers")
    seed.add_argument("--metric", choices=("visits", "pageviews", "visitors"), default="visits")
    for period in PERIODS:
        seed.add_argument(f"--{period}", type=int, default=0, help=f"add to {period}")


def command(
    commands: Any, name: str, run: Callable[..., int], help_text: str
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=help_text)
    made.set_defaults(run=run)
    return made


def named(
    commands: Any, name: str, run: Callable[..., int], help_text: str
) -> argparse.ArgumentParser:
    made = command(commands, name, run, help_text)
    made.add_argument("site", help="the site's id")
    return made


# -- the service itself


def serve(options: argparse.Namespace, settings: Settings) -> int:
    # Imported here: the other commands need neither the server nor its event loop, and a parent of
    # workers needs little of it.
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
        from visit_counter import app

        return runner.run(app.serve(settings, inherited))


def workers_given(text: str) -> int:
    try:
        return parse_workers(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def healthcheck(options: argparse.Namespace, settings: Settings) -> int:
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


def show_snippet(options: argparse.Namespace, settings: Settings) -> int:
    from visit_counter.web.pages import scripts
    from visit_counter.web.words import languages

    asked = [tag for tag in options.lang.split(",") if tag]
    if unknown := [tag for tag in asked if tag not in languages.LANGUAGES]:
        known = " ".join(languages.LANGUAGES)
        raise CallError(f"{unknown[0]!r} is no language of ours: use any of {known}")
    if len(asked) > scripts.MOST_LANGUAGES:
        raise CallError(f"a script brings at most {scripts.MOST_LANGUAGES} languages along")
    address = (options.url or here(settings)).rstrip("/")
    lines = scripts.snippet(
        address,
        options.site,
        tuple(asked),
        alone=options.count_only,
        pinned=options.pin,
    )
    print(lines)
    more = f"{address}/embed?site={quote(options.site, safe='')}"
    print(f"To choose how it looks, and to learn why it does not count: {more}", file=sys.stderr)
    return 0


# -- the spool, while the service does not run


def show_spool(_options: argparse.Namespace, settings: Settings) -> int:
    reports = [spool_files.describe(spool) for spool in spools_of(settings)]
    for report in reports:
        show_report(report)
    if not any(report.segments for report in reports):
        print("The spool is empty.")
    for producer in directories_of(settings.data_dir):
        if rejected := dead_letters.found(producer / "rejected"):
            print(
                f"{len(rejected)} batches that the store refused for good lie in "
                f"{rejected[0].parent}"
            )
    return 0


def show_report(report: spool_files.Report) -> None:
    for segment in report.segments:
        faults = [f"damaged from byte {at} to {end}" for at, end in segment.damage]
        faults += [f"{segment.torn} bytes of a torn tail"] if segment.torn else []
        print(f"{segment.path}\t{segment.records} batches\t{', '.join(faults) or 'sound'}")
    for partition, run in report.partitions.items():
        print(f"partition {partition}\t{run.records} batches, {run.first_seq} to {run.last_seq}")


def skip_spool(_options: argparse.Namespace, settings: Settings) -> int:
    skipped = [each for spool in spools_of(settings) for each in spool_files.skip(spool)]
    for each in skipped:
        print(
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


# -- upgrades


def upgrade_store(options: argparse.Namespace, settings: Settings) -> int:
    if options.put_back is not None:
        return put_back(options, settings)
    if options.yes:
        raise CallError("--yes belongs to --put-back: --finish needs none")
    base = options.url.rstrip("/") if options.url else here(settings, ops=True)
    token, elsewhere = token_of(settings), bool(options.url)
    url = f"{base}/api/v1/upgrade"
    if options.finish:
        return show(
            call(f"{url}/finish", "POST", {}, token, elsewhere=elsewhere, timeout_s=FINISH_S)
        )
    return show(call(url, "GET", token=token, elsewhere=elsewhere))


def put_back(options: argparse.Namespace, settings: Settings) -> int:
    from visit_counter.cli import downgrade

    if any(spool_files.describe(spool).partitions for spool in spools_of(settings)):
        raise CallError(
            "hits wait in the spool, and the version before cannot read them: start this version "
            "until `visit-counter spool show` says that the spool is empty"
        )
    copy = None if options.put_back is NO_COPY else options.put_back
    print(asyncio.run(downgrade.put_back(settings, copy, really=options.yes)))
    if not options.yes:
        print("Nothing was put back: add --yes to do it.", file=sys.stderr)
    return 0


# -- sites, through the admin API


def add_site(options: argparse.Namespace, settings: Settings) -> int:
    body = {"id": options.site, **assignments(options.settings)}
    return show(ask(options, settings, "POST", "", body))


def list_sites(options: argparse.Namespace, settings: Settings) -> int:
    listed = ask(options, settings, "GET", "")
    for site in listed["sites"]:
        print(f"{site['id']}\t{site['timezone']}\t{','.join(site['origins'])}\t{site['name']}")
    for site in listed.get("unreadable", []):
        print(f"{site['id']} cannot be read: {site['reason']}", file=sys.stderr)
    return 0


def show_site(options: argparse.Namespace, settings: Settings) -> int:
    shown = ask(options, settings, "GET", path_of(options))
    preview = ask(options, settings, "POST", path_of(options) + "/reset?preview=1")
    drops = ask(options, settings, "GET", path_of(options) + "/drops")
    return show({"settings": shown, "counts": preview["would_reset"], "drops": drops})


def show_privacy(options: argparse.Namespace, settings: Settings) -> int:
    import msgspec

    from visit_counter.model.site_settings import SiteSettings
    from visit_counter.web.words import privacy

    answer = ask(options, settings, "GET", path_of(options))
    try:
        shown = msgspec.convert(answer, SiteSettings)
    except msgspec.ValidationError as error:
        raise CallError(
            f"{options.site} has settings that this version cannot read ({error}): run the "
            "command of the service's version"
        ) from None
    print(privacy.markdown(privacy.notice(shown, options.lang)))
    return 0


def set_site(options: argparse.Namespace, settings: Settings) -> int:
    return show(ask(options, settings, "PATCH", path_of(options), assignments(options.settings)))


def reset_site(options: argparse.Namespace, settings: Settings) -> int:
    path = path_of(options) + "/reset"
    if not options.yes:
        show(ask(options, settings, "POST", path + "?preview=1"))
        print("Nothing was reset: add --yes to do it.", file=sys.stderr)
        return 0
    body = {"confirm": options.site, "reason": options.reason}
    undo = ask(options, settings, "POST", path, body)["undo"]
    print(f"Reset. To undo it within 30 days: visit-counter site undo {options.site} {undo}")
    return 0


def undo_reset(options: argparse.Namespace, settings: Settings) -> int:
    path = f"{path_of(options)}/undo/{quote(options.operation, safe='')}"
    return show(ask(options, settings, "POST", path))


def seed_site(options: argparse.Namespace, settings: Settings) -> int:
    add = {period: getattr(options, period) for period in PERIODS if getattr(options, period)}
    body = {"metric": options.metric, "add": add}
    return show(ask(options, settings, "POST", path_of(options) + "/seed", body))


def path_of(options: argparse.Namespace) -> str:
    return "/" + quote(options.site, safe="")


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """`timezone=Asia/Ho_Chi_Minh origins=https://a.vn,https://b.vn` as JSON fields."""
    return dict(assignment(text) for text in texts)


def assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CallError(f"{text!r} is no SETTING=VALUE, such as timezone=Asia/Ho_Chi_Minh")
    if name in ("origins", "trusted_networks"):
        return name, [part for part in value.split(",") if part]
    if value in ("true", "false"):
        return name, value == "true"
    return name, int(value) if value.isdecimal() and name != "name" else value


# -- asking


def ask(
    options: argparse.Namespace,
    settings: Settings,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
) -> Any:
    base = options.url.rstrip("/") if options.url else here(settings, ops=True)
    token = token_of(settings)
    url = f"{base}/api/v1/sites{path}"
    return call(url, method, body, token, elsewhere=bool(options.url))


def here(settings: Settings, *, ops: bool = False) -> str:
    address = (ops and settings.ops_listen) or settings.listen
    if address.host in ("0.0.0.0", "::"):
        address = address._replace(host="127.0.0.1" if address.host == "0.0.0.0" else "::1")
    return f"http://{address}{settings.base_path}"


def token_of(settings: Settings) -> str:
    path = Path(settings.data_dir) / TOKEN_NAME
    if settings.admin_token is not None:
        return settings.admin_token
    try:
        token = path.read_text(errors="replace").strip()
    except OSError as error:
        raise CallError(
            f"no admin token: {path} cannot be read ({error.strerror}). Run this where the service "
            "runs, or set VISIT_COUNTER_ADMIN_TOKEN"
        ) from None
    if not (token.isascii() and token.isprintable()):
        raise CallError(f"{path} holds no admin token: set VISIT_COUNTER_ADMIN_TOKEN")
    return token


def call(
    url: str,
    method: str,
    body: Mapping[str, Any] | None = None,
    token: str | None = None,
    *,
    elsewhere: bool = False,
    timeout_s: float = CALL_S,
) -> Any:
    # The environment's proxy is for the way out, never for the service here.
    handlers: list[BaseHandler] = [Unmoved()] if elsewhere else [Unmoved(), ProxyHandler({})]
    opener = build_opener(*handlers)
    try:
        with opener.open(request_of(url, method, body, token), timeout=timeout_s) as answer:
            text = answer.read()
    except HTTPError as error:
        if moved := error.headers.get("Location"):
            raise CallError(f"{url} has moved to {moved}: use that with --url") from None
        raise CallError(refusal(error)) from None
    except (ValueError, InvalidURL):
        raise CallError(f"{url!r} is no URL: write it like http://127.0.0.1:8080") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise CallError(f"no answer at {url} ({reason}): is the service running?") from None
    try:
        return json.loads(text)
    except ValueError:
        raise CallError(f"what answers at {url} is no visit counter") from None


def request_of(url: str, method: str, body: Mapping[str, Any] | None, token: str | None) -> Request:
    request = Request(url, method=method)
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    return request


def refusal(error: HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        problem = json.loads(text)
        return f"{problem.get('title', error.code)}: {problem.get('detail', text)}"
    except (ValueError, AttributeError):
        return f"HTTP {error.code}: {text[:500]}"


def show(answer: Any) -> int:
    print(json.dumps(answer, indent=2, ensure_ascii=False))
    return 0
