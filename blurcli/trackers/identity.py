"""The identity of a run in a tracker, bound to the run folder: a moved folder continues its run, a copy begins its own."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from blurcli.base import files

_PLACE = ".folder"  # suffix of the file beside that of the identity


@dataclass(frozen=True)
class Place:
    """The location of a folder.

    Attributes:
        path: the folder, without links.
        host: name of the machine.
        device: number of its file system there.
        inode: its inode number, which does not change when it is moved within a file system.
    """

    path: str
    host: str
    device: int
    inode: int

    @classmethod
    def of(cls, folder: Path) -> Place:
        """The place of an existing folder."""
        status = folder.stat()
        return cls(str(folder.resolve()), socket.gethostname(), status.st_dev, status.st_ino)


@dataclass(frozen=True)
class Identity:
    """The identity of a run in a tracker.

    Attributes:
        name: what the tracker's `begin` returned.
        place: the place of the run folder at that time; None if it is not recorded.
    """

    name: str
    place: Place | None = None

    @classmethod
    def read(cls, path: Path) -> Identity | None:
        """The identity in a file; None if the file is missing, or damaged by a crash."""
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
        """Write it to a file, and its place to another file beside it."""
        if self.place is not None:
            with files.replacing(path.with_suffix(_PLACE)) as temporary:
                temporary.write_text(json.dumps(asdict(self.place)) + "\n", encoding="utf-8")
        with files.replacing(path) as temporary:
            temporary.write_text(self.name + "\n", encoding="utf-8")

    def original(self, path: Path) -> str | None:
        """The original of the run folder, if that is a copy; else None. `path` is the file of this identity.

        A folder is a copy if the recorded folder still exists, or if it has another inode on the same file system.
        """
        here, before = Place.of(path.parent.parent), self.place
        if before is None or before.path == here.path:
            return None
        same_disk = (before.host, before.device) == (here.host, here.device)
        if same_disk and before.inode == here.inode:
            return None
        other = Identity.read(Path(before.path, *path.parts[-2:]))
        return before.path if same_disk or (other is not None and other.name == self.name) else None
