"""A disk of a few megabytes that can be filled, for the store's files.

It is a tmpfs in a mount namespace of its own: nobody else sees it, nothing is to be unmounted, and
it is gone when its holder and the processes on it have ended. Making one needs root.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

DISK_BYTES = 12 * 1024 * 1024
PIECE = 64 * 1024


class SmallDisk:
    """A tmpfs that only processes started `under` it see, and that ends with them."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        script = f"mount -t tmpfs -o size={DISK_BYTES} chaos {path} && echo mounted && exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout, "there is a pipe"
        if self._holder.stdout.readline() != b"mounted\n":
            self.end()
            raise OSError("no file system can be mounted here")
        pid = self._holder.pid
        self.under = ("nsenter", f"--mount=/proc/{pid}/ns/mnt")
        self.root = f"/proc/{pid}/root"
        self._filler = Path(f"{self.root}{path}/filler")

    def fill(self) -> None:
        """Leave no page free."""
        with suppress(OSError), self._filler.open("ab", buffering=0) as filler:
            while filler.write(bytes(PIECE)) == PIECE:
                pass

    def free(self) -> None:
        self._filler.unlink()

    def end(self) -> None:
        assert self._holder.stdin, "there is a pipe"
        self._holder.stdin.close()
        self._holder.wait(timeout=5)
        assert self._holder.stdout, "there is a pipe"
        self._holder.stdout.close()
