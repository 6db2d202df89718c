"""References to weights on the hub: hf://user/repo[@revision][/file], or addresses of its pages."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from blurcli.base.errors import UsageError, one_line

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
_HOSTS = ("huggingface.co", "hf.co")
_PAGES = ("tree", "blob", "resolve", "raw", "commit")  # of a repository at a revision


@dataclass(frozen=True)
class HubReference:
    """A weights file on the hub.

    Attributes:
        text: the reference, as hf://user/repo[@revision][/file] also for an address.
        repository: user/repo.
        revision: branch, tag or commit; None for the main branch.
        file: path of the file in the repository; None for its only weights file.
    """

    text: str
    repository: str
    revision: str | None
    file: str | None


def is_reference(text: str) -> bool:
    """Whether a text begins with `hf:` or like an address, as no path does; it may be malformed."""
    return text.lower().startswith(("hf:", "http:/", "https:/")) or bool(re.match(rf"(?i)(?:www\.)?({_host()})[/:]", text))


def parse(text: str) -> HubReference:
    """The parts of a reference, or of the address of a repository or file. A slash in the name of a branch is written %2F.

    Raises:
        UsageError: it is malformed, or names a file other than safetensors.
    """
    text = text if text.lower().startswith("hf:") else _of_address(text)
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
            raise UsageError(f"{text}: {file!r} is not a path in a repository; write {_FORM}")
        if not file.endswith(_SUFFIX):
            raise UsageError(f"{text}: only {_SUFFIX} files are fetched; name one, or leave the file out")
    return HubReference(text, found["repository"], revision, file)


def _host() -> str:
    """A pattern of the hub's hosts: $HF_ENDPOINT names another one."""
    return "|".join(map(re.escape, filter(None, (*_HOSTS, urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc))))


def _of_address(address: str) -> str:
    """The reference for an address of the hub."""
    found = re.fullmatch(rf"(?i)(?:https?:/+)?(?:www\.)?(?:{_host()})(?::\d+)?(?:[/:]+([^?#]*))?(?:[?#].*)?", address)
    if not found:
        raise UsageError(f"{one_line(address)}: not an address of the Hugging Face hub; download the file, and name it")
    owner, name, *rest = [*map(unquote, (found[1] or "").strip("/").removesuffix(".git").split("/")), ""]
    page, *rest = rest[:-1] or [""]
    taken = 3 if rest[:1] == ["refs"] else 1
    revision, file = "/".join(rest[:taken]), "/".join(rest[taken:])
    if not name or owner in ("datasets", "spaces") or bool(page) != bool(revision) or page not in ("", *_PAGES):
        raise UsageError(f"{one_line(address)}: not the address of a model or its file; write {_FORM}")
    at = f"@{quote(revision, safe='')}" if revision not in ("", "main") else ""
    return f"hf://{owner}/{name}{at}" + (f"/{file}" if file else "")


def check_repository(name: str, text: str | None = None) -> None:
    """Raise a UsageError that begins with `text`, or else with the name, unless a name is a valid `user/repo`."""
    fits = _REPOSITORY.fullmatch(name) and len(name) <= _LONGEST_NAME
    if not fits or ".." in name or "--" in name or name.endswith(".git"):
        raise UsageError(
            f"{text or one_line(name)}: {name!r} is not a repository of the hub: write user/repo, of letters, digits, '-', '_' "
            f"and '.', without '--' or '..', at most {_LONGEST_NAME} characters"
        )


def check_branch(name: str, text: str) -> None:
    """Raise a UsageError that begins with `text` unless a name is valid for a branch, tag or commit."""
    if not _REVISION.fullmatch(name) or ".." in name:
        raise UsageError(f"{text}: {name!r} is not a branch, tag or commit")


def choose_file(reference: HubReference, names: list[str]) -> str:
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
"""The default among several weights files of a repository."""
