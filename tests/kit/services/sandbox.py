"""Runs a program where the kernel refuses some system calls, as sandboxes do (seccomp(2)).

    python -m tests.kit.services.sandbox memfd_create=ENOSYS,socket:10=EPERM PROGRAM ARGUMENT…

A number after the name is that of the first argument; 10 is AF_INET6. The filter holds for the
program and all that it starts. Knows the numbers of the calls on x86-64 only; `refusing` skips a
test elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Sequence

import pytest

NUMBERS = {
    "accept4": 288,
    "bind": 49,
    "clone3": 435,
    "copy_file_range": 326,
    "epoll_create1": 291,
    "eventfd2": 290,
    "fchmod": 91,
    "fdatasync": 75,
    "flock": 73,
    "fsync": 74,
    "fstatfs": 138,
    "getcwd": 79,
    "io_uring_setup": 425,
    "link": 86,
    "linkat": 265,
    "memfd_create": 319,
    "mlock": 149,
    "pidfd_open": 434,
    "pidfd_send_signal": 424,
    "prctl": 157,
    "prlimit64": 302,
    "sched_getaffinity": 204,
    "setrlimit": 160,
    "setsid": 112,
    "setsockopt": 54,
    "signalfd4": 289,
    "socket": 41,
    "socketpair": 53,
    "statfs": 137,
    "statx": 332,
    "timerfd_create": 283,
}
FIRST_ARGUMENT = 16  # where it lies in struct seccomp_data
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # linux/filter.h
ALLOW, REFUSE = 0x7FFF0000, 0x00050000  # linux/seccomp.h


def refusing(*calls: str) -> list[str]:
    """The command that starts a program so; a call is written `memfd_create=ENOSYS`."""
    if platform.machine() != "x86_64":
        pytest.skip("knows the system calls of x86-64 only")
    return [sys.executable, "-m", "tests.kit.services.sandbox", ",".join(calls)]


def refuse(calls: Sequence[str]) -> None:
    """For this process and those that it starts, from now on."""
    code = [struct.pack("HBBI", LOAD, 0, 0, 0)]
    for call in calls:
        which, _, error = call.partition("=")
        name, _, first = which.partition(":")
        refusal = struct.pack("HBBI", RETURN, 0, 0, REFUSE | getattr(errno, error))
        if first:
            code.append(struct.pack("HBBI", IF_EQUAL, 0, 4, NUMBERS[name]))
            code.append(struct.pack("HBBI", LOAD, 0, 0, FIRST_ARGUMENT))
            code.append(struct.pack("HBBI", IF_EQUAL, 0, 1, int(first)))
            code += [refusal, struct.pack("HBBI", LOAD, 0, 0, 0)]
        else:
            code += [struct.pack("HBBI", IF_EQUAL, 0, 1, NUMBERS[name]), refusal]
    code.append(struct.pack("HBBI", RETURN, 0, 0, ALLOW))
    program = ctypes.create_string_buffer(b"".join(code))
    filled = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(code), ctypes.addressof(program))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, MODE_FILTER, filled)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    refuse(sys.argv[1].split(","))
    os.execvp(sys.argv[2], sys.argv[2:])
