"""References to weights on the hub: hf://user/repo[@revision][/file]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from blurcli.errors import UsageError, one_line

_FORM = "hf://user/repo[@revision][/file.safetensors]"
_SUFFIX = ".safetensors"
_NAME = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_REFERENCE = re.compile(
    r"hf://(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?(?:/(?P<file>.+))?"
)
_REVISION = re.compile(r"[\w.+-]+(?:/[\w.+-]+)*", re.ASCII)
_FILE = re.compile(r"[^\s\\?#%\x00-\x1f\x7f]+")
_LONGEST_NAME = 96


@dataclass(frozen=True)
class Reference:
    """A weights file on the hub.

    Attributes:
        text: the reference as it was given.
        repository: user/repo.
        revision: branch, tag or commit; None for the main branch.
        file: path of the file in the repository; None for its only weights.
    """

    text: str
    repository: str
    revision: str | None
    file: str | None


def is_reference(text: str) -> bool:
    """Whether a text names something on the hub, well-formed or not; a path does not begin with `hf:`."""
    return text.lower().startswith("hf:")


def parse(text: str) -> Reference:
    """The parts of a reference. A slash in the name of a branch is written %2F.

    Raises:
        UsageError: it is malformed, or names a file other than safetensors.
    """
    found = _REFERENCE.fullmatch(text)
    text = one_line(text)
    if not found:
        raise UsageError(f"{text}: malformed; write {_FORM}")
    check_repository(found["repository"], text)
    revision, file = found["revision"], found["file"]
    if revision is not None:
        revision = unquote(revision)
        check_branch(revision, text)
    if file is not None:
        if not _FILE.fullmatch(file) or {"", ".", ".."} & set(file.split("/")):
            raise UsageError(f"{text}: {file!r} is no path of a file in a repository; write {_FORM}")
        if not file.endswith(_SUFFIX):
            raise UsageError(f"{text}: only {_SUFFIX} files are fetched; name one, or leave the file out")
    return Reference(text, found["repository"], revision, file)


def check_repository(name: str, text: str | None = None) -> None:
    """Raise a UsageError, which begins with `text` or else the name, unless a name is `user/repo` in the hub's characters."""
    fits = _REPOSITORY.fullmatch(name) and len(name) <= _LONGEST_NAME
    if not fits or ".." in name or "--" in name or name.endswith(".git"):
        raise UsageError(
            f"{text or one_line(name)}: {name!r} is no repository of the hub: write user/repo, of letters, digits, '-', '_' "
            f"and '.', without '--' or '..', at most {_LONGEST_NAME} characters"
        )


def check_branch(name: str, text: str) -> None:
    """Raise a UsageError, which begins with `text`, unless a name can be that of a branch, tag or commit."""
    if not _REVISION.fullmatch(name) or ".." in name:
        raise UsageError(f"{text}: {name!r} is no branch, tag or commit")


def choose_file(reference: Reference, names: list[str]) -> str:
    """The weights file that a reference names, among the files of its repository.

    Raises:
        UsageError: there is no such file, no weights file, or more than one and none is `model.safetensors`.
    """
    weights = sorted(name for name in names if name.endswith(_SUFFIX))
    shown = ", ".join(weights[:10]) + (", ..." if len(weights) > 10 else "")
    if reference.file is not None:
        if reference.file in weights:
            return reference.file
        raise UsageError(f"{reference.text}: the repository has no such file" + (f"; it has {shown}" if weights else ""))
    if not weights:
        raise UsageError(f"{reference.text}: the repository has no {_SUFFIX} file, and no other format is ever fetched")
    if DEFAULT_FILE in weights:
        return DEFAULT_FILE
    if len(weights) > 1:
        raise UsageError(f"{reference.text}: the repository has several weights files ({shown}): add one, after a slash")
    return weights[0]


DEFAULT_FILE = "model.safetensors"
"""The file of a repository that is taken where there are several."""
