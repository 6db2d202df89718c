"""The identity of a run in a tracker, bound to the run folder: a moved folder continues its run, and a copy has its own."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from blurcli.base import files

_PLACE = ".folder"  # suffix of the file beside that of the identity


@dataclass(frozen=True)
class Place:
    """Where a folder is.

    Attributes:
        path: the folder, without links.
        host: name of the machine.
        device: number of its file system there.
        inode: its number there, which a move within a file system keeps.
    """

    path: str
    host: str
    device: int
    inode: int

    @classmethod
    def of(cls, folder: Path) -> Place:
        """The place of a folder that exists."""
        status = folder.stat()
        return cls(str(folder.resolve()), socket.gethostname(), status.st_dev, status.st_ino)


@dataclass(frozen=True)
class Identity:
    """What identifies a run in a tracker.

    Attributes:
        name: what the tracker's `begin` returned.
        place: the run folder at that time; None if it is not recorded.
    """

    name: str
    place: Place | None = None

    @classmethod
    def read(cls, path: Path) -> Identity | None:
        """The identity in a file; None where there is no such file, or a crash has damaged it."""
        try:
            name = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        if not name or not name.isprintable():
            return None
        try:
            return cls(name, Place(**json.loads(path.with_suffix(_PLACE).read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError, RecursionError):
            return cls(name)

    def write(self, path: Path) -> None:
        """Write it to a file, and its place beside that, from where `read` has it again."""
        if self.place is not None:
            with files.replacing(path.with_suffix(_PLACE)) as temporary:
                temporary.write_text(json.dumps(asdict(self.place)) + "\n", encoding="utf-8")
        with files.replacing(path) as temporary:
            temporary.write_text(self.name + "\n", encoding="utf-8")

    def original(self, path: Path) -> str | None:
        """The folder of which the run folder of `path`, the file of this identity, is a copy; None if it is no copy.

        A copy is a folder whose original is still there, or one that is new on the file system of its original.
        """
        here, before = Place.of(path.parent.parent), self.place
        if before is None or before.path == here.path:
            return None
        same_disk = (before.host, before.device) == (here.host, here.device)
        if same_disk and before.inode == here.inode:
            return None
        other = Identity.read(Path(before.path, *path.parts[-2:]))
        return before.path if same_disk or (other is not None and other.name == self.name) else None
