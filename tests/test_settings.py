"""Settings: what each variable means, what is refused and how, and what the host adds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visit_counter.config.host import cores
from visit_counter.config.settings import PREFIX, Settings
from visit_counter.config.values import (
    Address,
    parse_address,
    parse_base_path,
    same_place,
)
from visit_counter.errors import SettingsError

TOKEN = "a-token-of-32-characters-or-more"


def settings(host: Path | None = None, /, **values: str) -> Settings:
    environ = {PREFIX + name: value for name, value in values.items()}
    return Settings.from_env(environ, tty=False, root=host or Path("/nonexistent"))


def refused(**values: str) -> str:
    with pytest.raises(SettingsError) as caught:
        settings(**values)
    return str(caught.value)


def test_without_variables_everything_has_a_default_that_works() -> None:
    """An empty environment gives the embedded store on a loopback port."""
    got = settings()
    assert got.listen == (Address("127.0.0.1", 8080),)
    assert (got.redis_url, got.ops_listen, got.admin_token) == (None, None, None)
    assert (got.base_path, got.namespace, got.data_dir) == ("", "vc", Path("data"))
    assert (got.embedded_fsync, got.allow_unsafe_store) == ("always", False)
    assert got.trusted_proxies == ("127.0.0.0/8", "::1/128")


@pytest.mark.parametrize(
    ("name", "text", "field", "expected"),
    [
        ("LISTEN", "0.0.0.0:80", "listen", (Address("0.0.0.0", 80),)),
        ("LISTEN", "[::]:0", "listen", (Address("::", 0),)),
        ("LISTEN", "counter.lan:8080", "listen", (Address("counter.lan", 8080),)),
        ("LISTEN", "[::]:8, 0.0.0.0:8", "listen", (Address("::", 8), Address("0.0.0.0", 8))),
        ("LISTEN", "[::]:0,[::]:0", "listen", (Address("::", 0), Address("::", 0))),
        ("OPS_LISTEN", "127.0.0.1:9100", "ops_listen", Address("127.0.0.1", 9100)),
        ("BASE_PATH", "/", "base_path", ""),
        ("BASE_PATH", "thongke/", "base_path", "/thongke"),
        ("BASE_PATH", "/a/b", "base_path", "/a/b"),
        ("REDIS_URL", "redis://valkey:6379/0", "redis_url", "redis://valkey:6379/0"),
        ("REDIS_URL", "rediss://u:p%40@h", "redis_url", "rediss://u:p%40@h"),
        ("REDIS_URL", "unix:///run/v.sock?db=1", "redis_url", "unix:///run/v.sock?db=1"),
        ("NAMESPACE", "vc_2", "namespace", "vc_2"),
        ("WORKERS", "12", "workers", 12),
        ("WORKERS", "auto", "workers", cores()),
        ("DATA_DIR", "/var/lib/vc", "data_dir", Path("/var/lib/vc")),
        ("EMBEDDED_FSYNC", "everysec", "embedded_fsync", "everysec"),
        ("ALLOW_UNSAFE_STORE", "Yes", "allow_unsafe_store", True),
        ("ALLOW_UNSAFE_STORE", "0", "allow_unsafe_store", False),
        ("ADMIN_TOKEN", TOKEN, "admin_token", TOKEN),
        ("TRUSTED_PROXIES", "10.0.0.0/8, fd00::/8", "trusted_proxies", ("10.0.0.0/8", "fd00::/8")),
        ("TRUSTED_PROXIES", "10.1.2.3", "trusted_proxies", ("10.1.2.3/32",)),
        ("TIMEZONE", "Asia/Ho_Chi_Minh", "timezone", "Asia/Ho_Chi_Minh"),
        ("LOG_FORMAT", "console", "log_format", "console"),
        ("LISTEN", "", "listen", (Address("127.0.0.1", 8080),)),
        ("NAMESPACE", "  ", "namespace", "vc"),
    ],
)
def test_a_variable_becomes_a_value(name: str, text: str, field: str, expected: object) -> None:
    """Each variable is read into its type; an empty one is as good as none."""
    assert expected == getattr(settings(**{name: text}), field)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("LISTEN", "8080", "not host:port"),
        ("LISTEN", ":8080", "not host:port"),
        ("LISTEN", "::1:8080", "[::]:8080"),
        ("LISTEN", "127.0.0.1:65536", "not host:port"),
        ("LISTEN", "127.0.0.1:x", "not host:port"),
        ("LISTEN", "1.2.3.4.5:80", "not host:port"),
        ("LISTEN", "127.0.0.1:80,", "not host:port"),
        ("LISTEN", "127.0.0.1:80,127.0.0.1:80", "is the same place as 127.0.0.1:80: name it once"),
        ("LISTEN", "[::]:80,[::1]:80", "is the same place as [::]:80"),
        ("OPS_LISTEN", "127.0.0.1:8080", "same place as 127.0.0.1:8080 of VISIT_COUNTER_LISTEN"),
        ("OPS_LISTEN", "[::]:8080", "same place as 127.0.0.1:8080 of VISIT_COUNTER_LISTEN"),
        ("DATA_DIR", "~nobody-of-this-name/data", "write the whole path"),
        ("BASE_PATH", "/a/../b", "path of a URL"),
        ("BASE_PATH", "/a?b", "path of a URL"),
        ("BASE_PATH", "/a//b", "path of a URL"),
        ("REDIS_URL", "localhost:6379", "begin with redis://"),
        ("REDIS_URL", "redis+cluster://h:1/0", "a cluster has no databases"),
        ("REDIS_URL", "rediss+cluster://h:1/0", "a cluster has no databases"),
        ("REDIS_URL", "rediss+sentinel://h:1", "the name of the primary they watch"),
        ("REDIS_URL", "redis+cluster://h:1, i:2", "with commas between them and no spaces"),
        ("REDIS_URL", "redis+cluster://", "the URL names its hosts as host:port"),
        ("REDIS_URL", "redis+sentinel://h:1", "the name of the primary they watch"),
        ("MIN_REPLICAS", "-1", "is not a number from 0 to 9"),
        ("KEEPALIVE", "0", "is not a number of seconds from 0.1 to 86400, such as 75"),
        ("KEEPALIVE", "10m", "is not a number of seconds from 0.1 to 86400, such as 75"),
        ("REDIS_URL", "redis://", "names no host"),
        ("REDIS_URL", "redis://h/zero", "number of a database"),
        ("REDIS_URL", "unix://", "names no socket"),
        ("NAMESPACE", "Visit-Counter", "a letter a-z"),
        ("NAMESPACE", "a" * 32, "a letter a-z"),
        ("EMBEDDED_FSYNC", "no", "always, everysec"),
        ("ALLOW_UNSAFE_STORE", "maybe", "true, false"),
        ("ADMIN_TOKEN", "short", "32 or more characters"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        ("TRUSTED_PROXIES", "127.0.0.0/8,proxy", "'proxy'"),
        ("TIMEZONE", "asia/ho_chi_min", "did you mean Asia/Ho_Chi_Minh?"),
        ("TIMEZONE", "../etc/passwd", "no IANA time zone"),
        ("TIMEZONE", "Asia", "no IANA time zone"),
        ("LOG_FORMAT", "xml", "console, json"),
        ("WORKERS", "0", "a number from 1 to 99 nor auto"),
    ],
)
def test_a_wrong_value_is_refused_in_a_sentence(name: str, text: str, sentence: str) -> None:
    """The line names the variable and shows what would be right."""
    message = refused(**{name: text})
    assert message.startswith(f"{PREFIX}{name}: ")
    assert sentence in message


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("[::]:80", "0.0.0.0:80", True),
        ("[::]:80", "10.0.0.1:80", True),
        ("[0:0::0]:80", "[::1]:80", True),
        ("0.0.0.0:80", "10.0.0.1:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("0.0.0.0:80", "counter.lan:80", True),
        ("10.0.0.1:80", "10.0.0.2:80", False),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80", True),
        ("localhost:80", "[::1]:80", True),
        ("localhost:80", "127.0.0.1:80", True),
        ("localhost:80", "10.0.0.1:80", False),
        ("LOCALHOST:80", "localhost.:80", True),
        ("[fe80::1%a]:80", "[fe80::1%b]:80", False),
    ],
)
def test_two_addresses_that_are_one(one: str, other: str, clash: bool) -> None:
    """As far as names tell: nothing is resolved."""
    assert clash == same_place(parse_address(one), parse_address(other))
    assert clash == same_place(parse_address(other), parse_address(one))


def test_all_wrong_variables_are_reported_at_once() -> None:
    """An operator mends everything in one go: one line for each."""
    lines = refused(LISTEN="x", LOG_FORMAT="x", NOPE="x").splitlines()
    assert [f"{PREFIX}{name}" for name in ("NOPE", "LISTEN", "LOG_FORMAT")] == [
        line.partition(":")[0] for line in lines
    ]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("LISTNE", "LISTEN"),
        ("REDIS", "REDIS_URL"),
        ("TOKEN", "ADMIN_TOKEN"),
        ("PORT", "LISTEN"),
        ("timezone", "TIMEZONE"),
        ("LISTEN_FILE", "LISTEN"),
        ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest_known_one(name: str, nearest: str) -> None:
    """A slip of the pen never runs silently with the default."""
    assert f"{PREFIX}{name}: there is no such setting; did you mean {PREFIX}{nearest}?" == refused(
        **{name: "8080"}
    )


def test_kubernetes_service_links_are_no_settings() -> None:
    """A Service called visit-counter, or visit-counter-valkey, does not stop the service."""
    links = {
        "PORT": "tcp://10.0.0.1:8080",
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "8080",
        "SERVICE_PORT_HTTP": "8080",
        "PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "PORT_8080_TCP_ADDR": "10.0.0.1",
        "PORT_8080_TCP_PORT": "8080",
        "PORT_8080_TCP_PROTO": "tcp",
        "PORT_53_UDP": "udp://10.0.0.1:53",
        "PORT_53_UDP_ADDR": "10.0.0.1",
        "VALKEY_PORT": "tcp://10.0.0.2:6379",
        "VALKEY_SERVICE_HOST": "10.0.0.2",
        "VALKEY_PORT_6379_TCP_ADDR": "10.0.0.2",
    }
    assert settings() == settings(**links)


@pytest.mark.parametrize(("name", "text"), [("ADMIN_TOKEN", TOKEN), ("REDIS_URL", "redis://:pw@h")])
def test_a_secret_may_stand_in_a_file(tmp_path: Path, name: str, text: str) -> None:
    """The file's white space at both ends does not count."""
    file = tmp_path / "secret"
    file.write_text(text + "\n")
    file.chmod(0o600)
    got = settings(**{f"{name}_FILE": str(file)})
    assert (text, ()) == (getattr(got, name.lower()), got.warnings[1:])


def test_a_secret_file_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    """Docker's secrets have mode 0444, so it is no reason not to start."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert f"chmod 600 {file}" in settings(ADMIN_TOKEN_FILE=str(file)).warnings[0]


def test_a_secret_that_a_group_was_given_is_no_warning(tmp_path: Path) -> None:
    """As root gives it to the service's group, and systemd and Kubernetes do; through links, as
    `..data` of Kubernetes."""
    (tmp_path / "..1").mkdir()
    file = tmp_path / "..1/token"
    file.write_text(TOKEN)
    file.chmod(0o440)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "token").symlink_to("..data/token")

    got = settings(ADMIN_TOKEN_FILE=str(tmp_path / "token"))
    assert (got.admin_token, len(got.warnings)) == (TOKEN, 1)  # that of the time zone


def test_a_secret_on_a_read_only_mount_is_no_warning(tmp_path: Path) -> None:
    """Nobody could change its mode there; Kubernetes mounts secrets so, as 0644."""
    program = """
import os, sys
from visit_counter.config.settings import Settings
print(Settings.from_env(os.environ).warnings)
"""
    script = """
mount -t tmpfs tmpfs "$1" && printf %s "$2" > "$1/token" && chmod 644 "$1/token" || exit 77
mount -o remount,ro "$1" || exit 77
VISIT_COUNTER_ADMIN_TOKEN_FILE=$1/token exec "$3" -c "$4"
"""
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), TOKEN]
    done = subprocess.run(
        [*command, sys.executable, program], capture_output=True, text=True, timeout=30
    )
    if done.returncode == 77 or (done.returncode == 1 and not done.stdout):
        pytest.skip(f"no mounts here: {done.stderr.strip()}")

    assert "chmod" not in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_a_secret_may_come_by_a_pipe() -> None:
    """As of the shell's <(…): the operator names it, and what is behind it is read once."""
    read, write = os.pipe()
    os.write(write, f"{TOKEN}\n".encode())
    os.close(write)
    try:
        assert settings(ADMIN_TOKEN_FILE=f"/dev/fd/{read}").admin_token == TOKEN
    finally:
        os.close(read)


def test_a_secret_without_end_is_refused() -> None:
    """The memory of the machine is no place for it."""
    assert "holds more than 65536 bytes" in refused(ADMIN_TOKEN_FILE="/dev/zero")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "cannot be read: No such file"), (b"\n", "is empty"), (b"\xff", "not UTF-8")],
)
def test_a_secret_file_without_a_secret_is_refused(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    """The message names the path."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    message = refused(ADMIN_TOKEN_FILE=str(file))
    assert str(file) in message
    assert sentence in message


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    """Nobody has to guess which of the two holds."""
    assert "ADMIN_TOKEN_FILE is set too" in refused(ADMIN_TOKEN=TOKEN, ADMIN_TOKEN_FILE="/x")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hush#hush@h",
        "redis://:hush/hush@h",
        "redis://:hush?hush@h",
        "redis://:hush@h:port",
        "redis://:hush@h:99999",
        "redis://:hush@[h",
        "redis://:hush@",
        "http://:hush@h",
    ],
)
def test_no_message_tells_a_password(url: str) -> None:
    """A URL that cannot be used is not repeated, in whole or in part."""
    assert "hush" not in refused(REDIS_URL=url)


def test_secrets_are_not_shown() -> None:
    """Neither `config` nor a traceback tells a secret."""
    got = settings(ADMIN_TOKEN=TOKEN, REDIS_URL="redis://:hunter2@valkey")
    shown = str(got.shown()) + repr(got)
    assert TOKEN not in shown
    assert "hunter2" not in shown
    assert got.shown()[PREFIX + "ADMIN_TOKEN"] == "(secret, set)"


def test_what_is_shown_can_be_set_again() -> None:
    """`config` shows values in the form in which they are written."""
    got = settings(LISTEN="[::1]:0", BASE_PATH="/x", ALLOW_UNSAFE_STORE="1", TIMEZONE="UTC")
    assert got == Settings.from_env(
        {name: text for name, text in got.shown().items() if text != "(unset)"}
    )


def test_the_table_has_a_row_for_each_setting() -> None:
    """The README's table names every variable."""
    assert list(settings().shown()) == [
        row.split("`")[1] for row in Settings.table().splitlines()[2:]
    ]


@pytest.mark.parametrize(("tty", "expected"), [(True, "console"), (False, "json")])
def test_the_log_suits_its_reader(tty: bool, expected: str) -> None:
    """People at a terminal get lines, everything else gets JSON."""
    assert expected == Settings.from_env({}, tty=tty).log_format


def test_a_host_without_a_zone_counts_in_utc_and_says_so() -> None:
    """The warning names the setting."""
    got = settings()
    assert got.timezone == "UTC"
    assert "set VISIT_COUNTER_TIMEZONE" in got.warnings[0]


def test_the_zone_of_the_host_is_the_default(tmp_path: Path) -> None:
    """Without the setting, a new site's days are the host's."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/timezone").write_text("Asia/Ho_Chi_Minh\n")
    got = settings(tmp_path)
    assert (got.timezone, got.warnings) == ("Asia/Ho_Chi_Minh", ())


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_as_an_address(text: str) -> None:
    """No text breaks the reader, and what it takes reads the same again."""
    try:
        got = parse_address(text)
    except ValueError:
        return
    assert got == parse_address(str(got))


@given(st.text(alphabet="/.a~?%", max_size=12))
def test_a_base_path_is_empty_or_begins_with_a_slash_and_ends_without(text: str) -> None:
    """So `base_path + "/w/demo"` is always a path."""
    try:
        got = parse_base_path(text)
    except ValueError:
        return
    assert got == "" or (got[0] == "/" and got[-1] != "/" and got == parse_base_path(got))
