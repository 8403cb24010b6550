"""What somebody has planted in the data directory is named, and neither followed nor written."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from visit_counter.cli.calls import token_of
from visit_counter.config.admin_token import admin_token
from visit_counter.config.settings import Settings
from visit_counter.delivery.dead_letters import Aside
from visit_counter.disk import files, guarded, installation, locks
from visit_counter.disk.format import Record
from visit_counter.disk.guarded import Planted
from visit_counter.disk.migration_copy import Head, keep_newest
from visit_counter.disk.producer import directories_of, producer_of
from visit_counter.disk.spool import Spool
from visit_counter.embedded.server import Embedded
from visit_counter.errors import CallError, StartError

SECRET = "a file of somebody else, of more than 32 characters\n"
Plant = Callable[[Path], object]


def link(path: Path) -> None:
    """To a file that we may write."""
    victim = path.with_name("victim")
    victim.write_text(SECRET)
    path.symlink_to(victim)


def dangling(path: Path) -> None:
    """To one that would be made."""
    path.symlink_to(path.with_name("victim"))


def bound_socket(path: Path) -> None:
    home = os.open(path.parent, os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{home}/{path.name}")
    os.close(home)


def directory(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


PLANTS: list[tuple[Plant, str]] = [
    (link, "a symbolic link"),
    (dangling, "a symbolic link"),
    (fifo, "a FIFO"),
    (bound_socket, "a socket"),
    (directory, "a directory"),
]
planted = pytest.mark.parametrize(("plant", "what"), PLANTS, ids=[p.__name__ for p, _ in PLANTS])
no_follow = pytest.mark.parametrize("plant", [link, dangling, fifo])


def untouched(path: Path, plant: Plant) -> bool:
    """Whether what was planted is still that, and nothing was written behind it."""
    victim = path.with_name("victim")
    if plant is link:
        return path.is_symlink() and victim.read_text() == SECRET
    return path.lstat() is not None and not victim.exists()


@planted
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT])
def test_only_a_regular_file_is_opened(tmp_path: Path, plant: Plant, what: str, flags: int) -> None:
    """And nothing waits for the other end of a FIFO."""
    path = tmp_path / "file"
    plant(path)
    with pytest.raises(Planted) as refused:
        guarded.opened(path, flags)

    assert str(refused.value) == f"[Errno {errno.ELOOP}] {what} is in its place: '{path}'"
    assert untouched(path, plant)


@planted
def test_nothing_is_put_in_the_place_of_something_else(
    tmp_path: Path, plant: Plant, what: str
) -> None:
    """Where the file itself is to be replaced, the new one beside it is made anew."""
    path = tmp_path / "file.new"
    plant(path)
    for work in (lambda: guarded.replace(tmp_path / "file", b"x"), lambda: guarded.fresh(path)):
        with pytest.raises(Planted, match=what):
            work()

    assert untouched(path, plant)
    assert not (tmp_path / "file").exists()


def test_what_we_left_is_replaced_and_keeps_nothing(tmp_path: Path) -> None:
    """A file of a killed process; one with another name is not written through that."""
    new, other = tmp_path / "file.new", tmp_path / "other"
    new.write_text(SECRET)
    os.link(new, other)
    guarded.replace(tmp_path / "file", b"x")

    assert (tmp_path / "file").read_bytes() == b"x"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert other.read_text() == SECRET
    assert not new.exists()


def test_a_device_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Planted, match="a device"):
        guarded.read(Path("/dev/zero"))


def test_a_lock_with_another_name_is_not_signed(tmp_path: Path) -> None:
    """It may be no lock there: who plants it wants us to write into it."""
    victim, lock = tmp_path / "victim", tmp_path / "lock"
    victim.write_text(SECRET)
    os.link(victim, lock)
    os.close(locks.take(lock))

    assert victim.read_text() == SECRET


# -- directories


def test_a_directory_of_ours_is_made_private(tmp_path: Path) -> None:
    """Also one that a volume's mount has given to a group."""
    path = tmp_path / "a" / "b"
    guarded.directory(path)
    path.chmod(0o2770)
    guarded.directory(path)

    assert stat.S_IMODE(path.stat().st_mode) & 0o777 == 0o700


@pytest.mark.parametrize("plant", [link, dangling, fifo])
def test_something_else_is_no_directory(tmp_path: Path, plant: Plant) -> None:
    path = tmp_path / "directory"
    plant(path)
    with pytest.raises((Planted, FileExistsError)) as refused:
        guarded.directory(path)

    assert refused.value.filename == str(path)
    assert untouched(path, plant)


def test_a_link_to_a_directory_is_refused(tmp_path: Path) -> None:
    """Another user could have moved ours away."""
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "directory").symlink_to("elsewhere")
    with pytest.raises(Planted, match="a symbolic link is in its place"):
        guarded.directory(tmp_path / "directory")

    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who gives directories away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """Unless that one has the directory above too, as of a volume: then its mode stays as it is."""
    path = tmp_path / "directory"
    path.mkdir(mode=0o755)
    os.chown(path, 12345, 12345)
    with pytest.raises(Planted, match="a directory of user id 12345 is in its place"):
        guarded.directory(path)

    os.chown(tmp_path, 12345, 12345)
    guarded.directory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


# -- everything that lies in a data directory


async def start_embedded(data_dir: Path) -> None:
    async with Embedded(data_dir, "always"):
        pass


@no_follow
@pytest.mark.parametrize(
    "name", ["lock", "valkey", "valkey/probe", "valkey/valkey.lock", "valkey/valkey.log"]
)
async def test_a_start_of_valkey_names_what_was_planted(
    tmp_path: Path, plant: Plant, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    plant(path)
    with pytest.raises(StartError) as refused:
        await start_embedded(tmp_path)

    assert re.search(
        rf"is in its place: {path}\): remove {path}, and see who|"
        rf"File exists: {path}\): remove the file that is in the way",
        str(refused.value),
    )
    assert untouched(path, plant)


async def test_a_log_with_another_name_is_put_aside(tmp_path: Path) -> None:
    """What Valkey says is not written into a file of somebody else."""
    (tmp_path / "valkey").mkdir()
    victim = tmp_path / "victim"
    victim.write_text(SECRET)
    os.link(victim, tmp_path / "valkey/valkey.log")
    await start_embedded(tmp_path)

    assert victim.read_text() == SECRET
    assert (tmp_path / "valkey/valkey.log").stat().st_size > 0


async def test_valkeys_own_files_are_not_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "valkey/appendonlydir").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError, match=r"a symbolic link is in its place: .*appendonlydir"):
        await start_embedded(tmp_path)

    assert not list((tmp_path / "elsewhere").iterdir())


@no_follow
def test_the_admin_token_is_not_elsewhere(tmp_path: Path, plant: Plant) -> None:
    """Neither the service nor a command reads it there, nor makes it."""
    path = tmp_path / "admin-token"
    plant(path)
    settings = Settings.from_env({"VISIT_COUNTER_DATA_DIR": str(tmp_path)})

    with pytest.raises(StartError, match=f"so nothing is counted: remove {path}, and see who"):
        admin_token(None, tmp_path)
    with pytest.raises(CallError, match=r"no admin token: .* is in its place"):
        token_of(settings)
    assert untouched(path, plant)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who gives files away")
def test_an_admin_token_of_another_user_is_refused(tmp_path: Path) -> None:
    """Who made it knows it; unless the data directory is that one's."""
    token = admin_token(None, tmp_path)
    os.chown(tmp_path / "admin-token", 12345, 12345)
    with pytest.raises(StartError, match="belongs to user id 12345, who knows this admin token"):
        admin_token(None, tmp_path)

    os.chown(tmp_path, 12345, 12345)
    assert admin_token(None, tmp_path).token == token.token


@pytest.mark.parametrize("mode", [0o604, 0o660])
def test_an_admin_token_that_others_could_read_is_made_private(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "admin-token"
    token = admin_token(None, tmp_path)
    path.chmod(mode)

    assert token.token == admin_token(None, tmp_path).token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@no_follow
@pytest.mark.parametrize("name", ["producers", "producers/0", "producers/0/lock"])
def test_a_producer_is_not_elsewhere(tmp_path: Path, plant: Plant, name: str) -> None:
    """Then there is no spool, and it says why; nobody adopts what is behind a link."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    plant(path)
    with producer_of(tmp_path) as producer:
        assert producer.directory is None
        assert str(path) in producer.not_kept
        assert "hits are refused while the store is away" in producer.not_kept
    assert untouched(path, plant)


@pytest.mark.parametrize("name", ["producer", "producer.new"])
@no_follow
def test_an_epoch_is_not_elsewhere(tmp_path: Path, plant: Plant, name: str) -> None:
    path = tmp_path / "producers/0" / name
    path.parent.mkdir(parents=True)
    plant(path)
    with producer_of(tmp_path) as producer:
        assert producer.directory is None
        assert f"is in its place: {path}" in producer.not_kept
    assert untouched(path, plant)


def test_no_producer_behind_a_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/0").mkdir(parents=True)
    (tmp_path / "data/producers").mkdir(parents=True)
    (tmp_path / "data/producers/1").mkdir()
    (tmp_path / "data/producers/2").symlink_to(tmp_path / "elsewhere/0")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/producers").symlink_to(tmp_path / "elsewhere")

    assert directories_of(tmp_path / "data") == [tmp_path / "data/producers/1"]
    assert directories_of(tmp_path / "other") == []


@no_follow
async def test_a_spool_names_what_was_planted(tmp_path: Path, plant: Plant) -> None:
    """At its start, and when `visit-counter spool show` looks at it."""
    path = tmp_path / "00000001.seg"
    plant(path)
    with pytest.raises(StartError, match="is in its place"):
        async with Spool(tmp_path, 1 << 20):
            pass
    with pytest.raises(Planted):
        files.describe(tmp_path)
    assert untouched(path, plant)


@no_follow
def test_a_rejected_batch_is_not_kept_elsewhere(tmp_path: Path, plant: Plant) -> None:
    path = tmp_path / "rejected/01-2-3.seg"
    path.parent.mkdir()
    plant(path)

    assert Aside(path.parent).keep(Record(1, 2, 3, b"payload")) is None
    assert untouched(path, plant)


@no_follow
@pytest.mark.parametrize("name", ["installation", "installation.new"])
def test_which_store_it_is_of_is_not_elsewhere(tmp_path: Path, plant: Plant, name: str) -> None:
    """A planted file would end the check of the store."""
    path = tmp_path / name
    plant(path)
    if name == "installation":
        with pytest.raises(StartError, match=f"remove {path}, and see who else"):
            installation.check(tmp_path, "some-id", "a store")
    else:
        installation.remember(tmp_path, "some-id")  # the log says that it is not
        assert installation.remembered(tmp_path) == ""
    assert untouched(path, plant)


@no_follow
def test_copies_of_a_migration_are_files(tmp_path: Path, plant: Plant) -> None:
    """None of them is read, removed, or waited for."""
    path = tmp_path / "before-4.jsonl.gz"
    plant(path)
    head = Head(form=4, to=5, namespace="vc", installation="id", at="")
    keep_newest(tmp_path, head)

    assert untouched(path, plant)


def test_the_data_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    """That is the operator's choice."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    made = admin_token(None, tmp_path / "data")
    with producer_of(tmp_path / "data") as producer:
        assert producer.directory == tmp_path / "data/producers/0"

    assert made.token == admin_token(None, tmp_path / "disk").token
