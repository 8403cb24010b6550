"""The command line against a running service: useful output, errors of one sentence, exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from tests.kit.services.in_process import TOKEN, namespace
from tests.kit.services.process import ROOT, ServiceProcess, environment, serving, until
from tests.kit.stores.server import Server
from visit_counter.cli.main import COMMANDS, main
from visit_counter.config.settings import Settings
from visit_counter.model.site_settings import partition_of
from visit_counter.web.pages.scripts import counting

NAMESPACE = namespace()


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The one line on stderr of a command that failed."""
        assert (self.status, self.out) == (1, "")
        assert self.err.startswith("visit-counter: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("visit-counter: ").strip()


@pytest.fixture(scope="module")
def service(valkey: Server) -> Iterator[ServiceProcess]:
    with serving(REDIS_URL=valkey.url, NAMESPACE=NAMESPACE) as running:
        assert running.url  # a store that tests have written into gets no demo site
        yield running


def run(*arguments: str, **settings: str) -> Ran:
    """A command with these settings; in this process, which takes a tenth of the time."""
    given = environment({f"VISIT_COUNTER_{name}": text for name, text in settings.items()})
    out, err = StringIO(), StringIO()
    with patch.dict(os.environ, given, clear=True), redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as ended:  # argparse
            status = int(ended.code or 0)
    return Ran(status, out.getvalue(), err.getvalue())


def site(service: ServiceProcess, *arguments: str) -> Ran:
    """`visit-counter site …` where the service listens."""
    listen = service.url.removeprefix("http://")
    return run("site", *arguments, LISTEN=listen, ADMIN_TOKEN=TOKEN)


def test_a_site_is_made_listed_shown_and_changed(service: ServiceProcess) -> None:
    """Values are written SETTING=VALUE, lists with commas; whatever was set is shown."""
    origins = "origins=https://a.vn,https://*.a.vn"

    made = site(service, "add", "portal", origins, "timezone=Asia/Ho_Chi_Minh", "name=2026").json
    listed = site(service, "list")
    changed = site(service, "set", "portal", "metric=pageviews", "max_pages=5", "public=false").json
    ignored = site(service, "set", "portal", "ignored_networks=192.0.2.0/24,2001:db8::/32").json
    shown = site(service, "show", "portal").json

    assert made["origins"] == ["https://a.vn", "https://*.a.vn"]
    assert (made["id"], made["timezone"], made["name"]) == ("portal", "Asia/Ho_Chi_Minh", "2026")
    assert "portal\tAsia/Ho_Chi_Minh\thttps://a.vn,https://*.a.vn\t2026\n" in listed.out
    assert (changed["metric"], changed["max_pages"], changed["public"]) == ("pageviews", 5, False)
    assert ignored["ignored_networks"] == ["192.0.2.0/24", "2001:db8::/32"]
    assert shown["settings"] == ignored
    assert shown["counts"]["total"] == {"pageviews": 0, "visits": 0, "visitors": 0}
    assert shown["drops"] == {}


def test_a_site_that_cannot_be_read_is_said_to_be(service: ServiceProcess, valkey: Server) -> None:
    """The list has the others on stdout; whatever is asked of it fails with the reason."""
    tag = f"{NAMESPACE}:{{p{partition_of('newer'):02}}}"
    valkey.call("HSET", f"{tag}:sites", "newer", '"{}"')
    valkey.call("HINCRBY", f"{tag}:sites", "#", "1")
    until(lambda: "newer" in site(service, "list").err, 5)
    listed = site(service, "list")
    failed = [
        site(service, "show", "newer").sentence,
        site(service, "set", "newer", "name=x").sentence,
        site(service, "reset", "newer", "--yes").sentence,
        run("privacy", "newer", LISTEN=service.url[7:], ADMIN_TOKEN=TOKEN).sentence,
    ]
    valkey.call("HDEL", f"{tag}:sites", "newer")
    valkey.call("HINCRBY", f"{tag}:sites", "#", "1")

    assert (listed.status, "newer" in listed.out, "demo\t" in listed.out) == (0, False, True)
    assert listed.err == "newer cannot be read: Object missing required field `settings`\n"
    assert {sentence.partition(":")[0] for sentence in failed} == {"Site unreadable"}
    assert all("missing required field `settings`" in sentence for sentence in failed)


def test_a_newer_service_s_settings_are_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The privacy text leaves out a setting that it does not know, and guesses at no value."""
    answer: dict[str, object] = {"id": "a", "origins": ["*"], "public_history": True}
    monkeypatch.setattr("visit_counter.cli.snippet.ask", lambda *_: answer)
    told = run("privacy", "a", ADMIN_TOKEN=TOKEN)
    answer["identity"] = "cookie"
    refused = run("privacy", "a", ADMIN_TOKEN=TOKEN).sentence

    assert told.out.startswith("# Privacy")
    assert refused.startswith("a has settings that this version cannot read (Invalid enum value")


def test_numbers_are_seeded_reset_and_brought_back(service: ServiceProcess) -> None:
    """Without --yes a reset only shows what would go; with it, it says how to undo it."""
    service.site("shop")
    service.hit("shop")

    seeded = site(service, "seed", "shop", "--metric", "visits", "--total", "1891450").json
    asked = site(service, "reset", "shop")
    kept = service.counts("shop")["total"]["visits"]
    done = site(service, "reset", "shop", "--yes", "--reason", "moved")
    gone = service.counts("shop")["total"]["visits"]
    way_back = done.out.strip().rpartition("visit-counter ")[2].split()
    back = run(*way_back, LISTEN=service.url.removeprefix("http://"), ADMIN_TOKEN=TOKEN)

    assert seeded["total"]["visits"] == 1_891_451
    assert asked.json["would_reset"]["total"]["visits"] == kept == 1_891_451
    assert "--yes" in asked.err
    assert (done.status, gone) == (0, 0)
    assert back.status == 0
    assert service.counts("shop")["total"] == {"pageviews": 1, "visits": 1_891_451, "visitors": 1}


def test_the_privacy_text_is_of_the_settings_in_force(service: ServiceProcess) -> None:
    """As Markdown, in the language that is asked for."""
    listen = service.url.removeprefix("http://")
    site(service, "add", "library", "origins=https://a.vn", "name=Thư viện", "visit_timeout=3600")

    told = run("privacy", "library", "--lang", "vi", LISTEN=listen, ADMIN_TOKEN=TOKEN)

    assert told.out.startswith("# Quyền riêng tư: cách đếm lượt truy cập Thư viện\n\n")
    assert "sau 1 giờ không có lượt xem nào" in told.out


def test_the_service_elsewhere_is_named_by_its_url(service: ServiceProcess) -> None:
    """--url goes before the action and may end with a slash."""
    listed = run("site", "--url", service.url + "/", "list", ADMIN_TOKEN=TOKEN)

    assert (listed.status, "demo\t" in listed.out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["add", "x"], [], id="add-without-settings"),
        pytest.param(["add", "x", "origins"], ["'origins'", "SETTING=VALUE"], id="add-no-value"),
        pytest.param(["add", "x", "name=x"], ["origins"], id="add-without-origins"),
        pytest.param(["add", "demo", "origins=*"], ["Site exists", "demo"], id="add-existing"),
        pytest.param(["add", "X", "origins=*"], ["Bad setting", "a-z"], id="add-bad-id"),
        pytest.param(["add", "x", "origins=a.vn"], ["https://a.vn"], id="add-bad-origin"),
        pytest.param(
            ["set", "demo", "timezone=Hue"], ["Hue", "Asia/Ho_Chi_Minh"], id="set-timezone"
        ),
        pytest.param(["set", "demo", "colour=1"], ["colour"], id="set-unknown"),
        pytest.param(["set", "demo", "id=other"], ["keeps its id"], id="set-id"),
        pytest.param(["set", "nowhere", "name=x"], ["nowhere"], id="set-unknown-site"),
        pytest.param(["show", "nowhere"], ["Unknown site", "nowhere"], id="show-unknown"),
        pytest.param(["show", "a/b ü"], ["Unknown site"], id="show-odd-name"),
        pytest.param(["reset", "nowhere", "--yes"], ["Unknown site"], id="reset-unknown"),
        pytest.param(["undo", "demo", "nothing"], ["Unknown reset", "30 days"], id="undo-unknown"),
        pytest.param(["seed", "demo"], ["Nothing to add"], id="seed-nothing"),
        pytest.param(
            ["seed", "demo", "--year", "-9"],
            ["Below zero", "year shows 0 visits: at most 0 can be taken"],
            id="seed-below",
        ),
        pytest.param(["seed", "demo", "--total", str(10**15)], ["add.total"], id="seed-too-much"),
    ],
)
def test_what_the_service_refuses_is_one_sentence(
    service: ServiceProcess, arguments: list[str], words: list[str]
) -> None:
    """Exit 1 for what the service refuses, 2 with the usage for what is no command."""
    ran = site(service, *arguments)

    if not words:
        assert ran.status == 2
        assert "usage: visit-counter" in ran.err
        return
    assert [word for word in words if word not in ran.sentence] == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["site"],
        ["site", "nothing"],
        ["site", "seed", "demo", "--total", "many"],
        ["site", "seed", "demo", "--metric", "hits"],
        ["serve", "now"],
        ["serve", "--workers", "0"],
    ],
    ids=" ".join,
)
def test_what_is_no_command_is_answered_with_the_usage(arguments: list[str]) -> None:
    """argparse's own exit code and one line that says what is wrong."""
    ran = run(*arguments)

    assert (ran.status, ran.out) == (2, "")
    assert "usage: visit-counter" in ran.err


def test_a_wrong_token_is_refused(service: ServiceProcess) -> None:
    """The sentence says which token is needed."""
    ran = run(
        "site",
        "list",
        LISTEN=service.url.removeprefix("http://"),
        ADMIN_TOKEN="0123456789abcdef" * 2,
    )

    assert "Admin token needed" in ran.sentence


def test_without_a_token_the_data_directory_is_named(
    service: ServiceProcess, tmp_path: Path
) -> None:
    """The token lies there; from elsewhere it is a setting."""
    ran = run("site", "list", LISTEN=service.url.removeprefix("http://"), DATA_DIR=str(tmp_path))

    assert str(tmp_path / "admin-token") in ran.sentence
    assert "VISIT_COUNTER_ADMIN_TOKEN" in ran.sentence


def test_a_damaged_token_is_said_to_be_none(tmp_path: Path) -> None:
    """A file of that name may hold anything."""
    (tmp_path / "admin-token").write_bytes(b"\xff\xfe\n\n\0")

    assert "holds no admin token" in run("site", "list", DATA_DIR=str(tmp_path)).sentence


@pytest.mark.parametrize(
    "url", ["http://[::1", "nowhere", "ftp://127.0.0.1", "http://127.0.0.1:1\n"]
)
def test_a_bad_url_is_named(url: str) -> None:
    """Whatever urllib thinks of it."""
    ran = run("site", "--url", url, "list", ADMIN_TOKEN=TOKEN)

    assert url.strip() in ran.sentence


def test_a_health_check_asks_the_service_here(service: ServiceProcess) -> None:
    """Exit 0 while it answers, --ready while it can count."""
    listen = service.url.removeprefix("http://")

    assert run("healthcheck", LISTEN=listen).json == {"status": "ok"}
    assert run("healthcheck", "--ready", LISTEN=listen).json["status"] == "ok"


def test_a_proxy_of_the_environment_is_not_asked(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container with http_proxy set is still healthy."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert run("healthcheck", LISTEN=service.url.removeprefix("http://")).status == 0


def test_where_nobody_listens_the_address_is_named() -> None:
    """Exit 1, so that Docker's health check fails."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{closed.getsockname()[1]}"
        for command in (["healthcheck"], ["site", "list"]):
            sentence = run(*command, LISTEN=listen, ADMIN_TOKEN=TOKEN).sentence
            assert listen in sentence
            assert "is the service running?" in sentence


def test_what_is_no_counter_is_said_to_be_none() -> None:
    """Somebody else may listen there."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(20)
        answering = threading.Thread(target=say_hello, args=(other,))
        answering.start()
        ran = run("healthcheck", LISTEN=f"127.0.0.1:{other.getsockname()[1]}")
        answering.join()

    assert "is not a visit counter" in ran.sentence


def say_hello(listener: socket.socket) -> None:
    with listener.accept()[0] as connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


def test_the_settings_in_force_are_shown_without_secrets() -> None:
    """`config` names every variable; of a secret only whether it is set."""
    ran = run("config", ADMIN_TOKEN=TOKEN, LISTEN="0.0.0.0:80", BASE_PATH="thongke/")

    assert ran.status == 0
    assert "VISIT_COUNTER_LISTEN=0.0.0.0:80\n" in ran.out
    assert "VISIT_COUNTER_BASE_PATH=/thongke\n" in ran.out
    assert "VISIT_COUNTER_ADMIN_TOKEN=(secret, set)\n" in ran.out
    assert TOKEN not in ran.out


def test_the_settings_are_written_as_a_table() -> None:
    """`config --markdown` is what the README holds; `python -m visit_counter` is the command."""
    done = subprocess.run(
        [sys.executable, "-m", "visit_counter", "config", "--markdown"],
        cwd=ROOT,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert (done.stdout, done.stderr) == (Settings.table() + "\n", "")


def test_wrong_settings_are_named_by_every_command() -> None:
    """Exit 2, all of them at once."""
    ran = run("config", LISTEN="here", COLOUR="red")

    assert (ran.status, ran.out) == (2, "")
    assert "VISIT_COUNTER_LISTEN: 'here'" in ran.err
    assert "VISIT_COUNTER_COLOUR: there is no such setting" in ran.err


URL = "https://count.example.vn/"
BLOCK = "\n<visit-counter></visit-counter>\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            [],
            '<script async src="https://count.example.vn/embed.js" data-site="portal"></script>'
            + BLOCK,
        ),
        (
            ["--lang", "vi,km"],
            '<script async src="https://count.example.vn/embed.js?lang=vi,km" data-site="portal">'
            "</script>" + BLOCK,
        ),
        (
            ["--count-only", "--pin"],
            f'<script async src="https://count.example.vn/embed.count.{counting().version}.js"'
            f' integrity="{counting().integrity}" crossorigin="anonymous" data-site="portal">'
            "</script>\n",
        ),
    ],
    ids=["plain", "languages", "pinned"],
)
def test_snippet(arguments: list[str], expected: str) -> None:
    """The lines for a page, as they are pasted; a pinned script with its version and hash."""
    ran = run("snippet", "portal", "--url", URL, *arguments)
    assert (ran.out, ran.err.split()[-1]) == (expected, f"{URL}embed?site=portal")


@pytest.mark.parametrize("lang", ["xx", "vi,en,fr,de"])
def test_snippet_in_no_language(lang: str) -> None:
    """A language that is none, or one too many, is refused in a sentence."""
    assert "language" in run("snippet", "portal", "--lang", lang).sentence


def test_each_command_is_where_it_is_said_to_be() -> None:
    """Only the module of the command that is given is imported."""
    for module, commands in COMMANDS.items():
        for command in commands:
            with redirect_stdout(StringIO()) as shown, pytest.raises(SystemExit) as ended:
                main([command, "--help"])
            assert ended.value.code == 0, module
            assert f"usage: visit-counter {command}" in shown.getvalue()
    with redirect_stdout(StringIO()) as shown, pytest.raises(SystemExit):
        main(["--help"])
    assert all(f"    {command}" in shown.getvalue() for of in COMMANDS.values() for command in of)
