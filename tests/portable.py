"""Command lines where only what every operating system has is there: python portable.py REPORT < commands.json

Modules, functions and signals that only POSIX has are absent for the package (libraries choose theirs by the system's name), and
so are Linux's files; open or mapped files cannot be replaced or removed, folders cannot be opened, names must be ones that
Windows allows, and text must be read and written with an explicit encoding. Command lines, JSON lists on stdin, run one after the other; the report is a JSON file.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import importlib
import io
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = ("fcntl", "grp", "posix_ipc", "pty", "pwd", "resource", "syslog", "termios", "tty")
FUNCTIONS = """
chown chroot confstr ctermid fchdir fchmod fchown fdatasync fork forkpty getegid geteuid getgid getgroups getloadavg getpgid
getpgrp getpriority getsid getuid initgroups killpg lchown lockf major memfd_create mkfifo mknod nice openpty pidfd_open pipe2
posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev sched_getaffinity sched_setaffinity sched_yield sendfile
setegid seteuid setgid setpgid setpriority setsid setuid sync sysconf uname wait3 wait4 waitid O_ASYNC O_CLOEXEC O_DIRECT
O_DIRECTORY O_DSYNC O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH O_SYNC
"""
SIGNALS = """
SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH alarm getitimer
pause pthread_kill pthread_sigmask setitimer siginterrupt sigpending sigtimedwait sigwait
"""
FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\\]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)
"""A name of a file that Windows refuses."""
SYSTEM = re.compile(r"/(proc|sys)(/|$)")

real_listdir, real_readlink, real_open = os.listdir, os.readlink, os.open


def in_use(path: Any) -> bool:
    """Whether this process has a file open or mapped."""
    wanted = os.path.realpath(path)
    for number in real_listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if real_readlink(f"/proc/self/fd/{number}") == wanted:
                return True
    with io_open("/proc/self/maps", encoding="utf-8") as maps:
        return any(line.rstrip("\n").endswith(f" {wanted}") for line in maps)


def check_name(path: Any) -> None:
    """Refuse a name that Windows does not allow."""
    name = Path(os.fsdecode(path)).name
    if name != ".." and FORBIDDEN.search(name):
        raise OSError(errno.EINVAL, "a name that Windows does not allow", name)


def check_free(path: Any) -> None:
    """Refuse to touch a file that is in use."""
    if in_use(path):
        raise PermissionError(errno.EACCES, "the file is in use", os.fsdecode(path))


def check_place(path: Any) -> None:
    """Hide what only Linux has."""
    if isinstance(path, (str, bytes, os.PathLike)) and SYSTEM.match(os.fsdecode(path)):
        raise FileNotFoundError(errno.ENOENT, "no such file", os.fsdecode(path))


def before(function: Callable[..., Any], *checks: Callable[..., None]) -> Callable[..., Any]:
    """The function, after checks of its first argument."""

    def checked(path: Any, *arguments: Any, **options: Any) -> Any:
        for check in checks:
            check(path)
        return function(path, *arguments, **options)

    return checked


io_open = io.open


def portable_open(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
    """`open` of another system."""
    check_place(path)
    if not isinstance(path, int) and set(mode) & set("wxa+"):
        check_name(path)
    return io_open(path, mode, *arguments, **options)


def low_open(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
    """`os.open` of another system."""
    check_place(path)
    if Path(os.fsdecode(path)).is_dir() and not flags & getattr(os, "O_TMPFILE", 0):
        raise PermissionError(errno.EACCES, "folders cannot be opened", os.fsdecode(path))
    if flags & os.O_CREAT:
        check_name(path)
    return real_open(path, flags, *arguments, **options)


def moving(function: Callable[..., None]) -> Callable[..., None]:
    """Replacing and renaming on another system."""

    def move(source: Any, target: Any, **options: Any) -> None:
        check_name(target)
        check_free(source)
        check_free(target)
        function(source, target, **options)

    return move


class Without(ModuleType):
    """A module without some of its names.

    Args:
        module: the whole module.
        names: the absent ones.
    """

    def __init__(self, module: ModuleType, names: list[str]) -> None:
        super().__init__(module.__name__)
        self._module, self._absent = module, set(names)

    def __getattr__(self, name: str) -> Any:
        if name in self._absent:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._module, name)


def install() -> None:
    """Take away what other systems lack."""
    poorer = {"os": Without(os, FUNCTIONS.split()), "signal": Without(signal, SIGNALS.split())}
    real_import = builtins.__import__

    def importing(name: str, importer: Any = None, *arguments: Any, **options: Any) -> Any:
        if str((importer or {}).get("__name__", "")).split(".")[0] == "blurcli":
            if name in MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in poorer:
                return poorer[name]
        return real_import(name, importer, *arguments, **options)

    def synced(descriptor: int) -> None:
        fcntl = importlib.import_module("fcntl")
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "a file opened for reading cannot be synced")

    builtins.__import__ = importing
    io.open = builtins.open = portable_open  # type: ignore[assignment]
    os.open = low_open
    os.fsync = before(os.fsync, synced)
    os.replace, os.rename = moving(os.replace), moving(os.rename)
    os.unlink = os.remove = before(os.unlink, check_free)
    os.mkdir = before(os.mkdir, check_name)
    os.stat, os.listdir, os.scandir = (before(function, check_place) for function in (os.stat, os.listdir, os.scandir))


def run(commands: list[list[str]]) -> list[dict[str, Any]]:
    """Run command lines; what each ended with."""
    warnings.filterwarnings("error", category=EncodingWarning, module="blurcli")
    from blurcli.cli import main

    ends = []
    for command in commands:
        shown = io.StringIO()
        code: Any = 0
        with contextlib.redirect_stdout(shown):
            try:
                main(command)
            except SystemExit as end:
                code = end.code or 0
        ends.append({"command": command, "code": code, "out": shown.getvalue()})
    return ends


if __name__ == "__main__":
    install()
    report = json.dumps(run(json.load(sys.stdin)))
    with io_open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(report)
