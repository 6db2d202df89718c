"""The file format of weights and training states: safetensors with JSON metadata, written atomically, never pickled.

The metadata holds the kind of the file, the configuration as JSON, the step, the versions of the format and of blurdiff, and a
SHA-256 over tensors and metadata, by which a damaged file is recognized.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from blurcli.base import files
from blurcli.base.errors import UsageError, UserError
from blurcli.base.runs import Run, other_version
from blurcli.base.version import __version__

_FORMAT_VERSION = "1"
_MAX_HEADER_BYTES = 1 << 23  # headers of our networks have about 100 kB

Tensors = dict[str, Tensor]


def write(path: Path, kind: str, tensors: Tensors, metadata: Mapping[str, str], keep: Path | None = None) -> None:
    """Write a file atomically.

    Args:
        path: the file.
        kind: `weights` or `state`.
        tensors: on any device.
        metadata: with the keys `config` (JSON) and `step`.
        keep: where the previous file at `path` goes; None to replace it.

    Raises:
        UserError: the file cannot be written.
    """
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    own = {"format": "blurdiff", "format_version": _FORMAT_VERSION, "blurdiff": __version__, "kind": kind}
    metadata = {**own, **metadata}
    with files.replacing(path, keep) as temporary:
        try:
            save_file(plain, temporary, {**metadata, "sha256": content_hash(plain, metadata)})
        except SafetensorError as error:
            # safetensors wraps errors of the system, such as a full disk, in its own exception.
            raise UserError(f"{path}: cannot be written ({error}): free disk space, or choose another location") from error


def read(path: Path, kind: str, name: str | None = None) -> tuple[dict[str, str], Tensors]:
    """Metadata and tensors of a file.

    Args:
        path: the file.
        kind: the expected kind, `weights` or `state`.
        name: name of the file in messages; None for its path.

    Raises:
        UsageError: there is no such file, or it is of another kind or format version.
        UserError: it is damaged.
    """
    name = name or str(path)
    if reason := files.unreadable(path):
        raise UsageError(f"{name}: {reason}")
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format") != "blurdiff" or metadata.get("kind") != kind or "config" not in metadata:
                by = other_version(metadata.get("blurdiff"))
                raise UsageError(f"{name}: a safetensors file, but not a {kind} file of blurdiff{by}")
            if metadata.get("format_version") != _FORMAT_VERSION:
                version = metadata.get("format_version")
                by = other_version(metadata.get("blurdiff")) or ": update it"
                raise UsageError(f"{name}: has format version {version}; this blurdiff reads {_FORMAT_VERSION}{by}")
            # Copies: on Windows a file cannot be replaced while tensors are mapped to it.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{name}: not a readable safetensors file ({error}); it may be truncated: use another copy") from None
    recorded = metadata.pop("sha256", "")
    if content_hash(tensors, metadata) != recorded:
        raise UserError(f"{name}: its content does not match its recorded checksum; it is damaged: use another copy")
    return metadata, tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file from its header alone, without the checksum; empty if the file is missing or damaged."""
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return {}


@contextmanager
def naming_version(metadata: Mapping[str, str], run: Run) -> Iterator[None]:
    """Add to errors in a file of a run which other version of blurdiff wrote it, by the metadata of the file or the run."""
    try:
        yield
    except UserError as error:
        raise type(error)(error.text + other_version(metadata.get("blurdiff") or run.version)) from None


def read_step(metadata: Mapping[str, str], name: Path | str) -> int:
    """The number of training steps in the metadata of the file `name`; UserError where it is not a number."""
    text = metadata.get("step", "")
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{name}: its step {text!r} is not a number; the file is damaged")
    return int(text)


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Check names, shapes and dtypes of tensors against a module's parameters, which may be on `meta`.

    Raises:
        UserError: they differ.
    """
    parameters = module.state_dict()
    for name in sorted(parameters.keys() ^ tensors.keys()):
        problem = "missing" if name in parameters else "unknown"
        raise UserError(f"{path}: its tensors do not fit its configuration (net.{name} is {problem})")
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape or tensor.dtype != parameters[name].dtype:
            raise UserError(
                f"{path}: its tensors do not fit its configuration (net.{name} is {_form(tensor)}, "
                f"the network needs {_form(parameters[name])})"
            )


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def content_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """The SHA-256, in hex, over tensors (names, dtypes, shapes, bytes) and metadata, in any order."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        if tensor.numel():  # an empty tensor has no view as bytes
            sha256.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for key, value in sorted((metadata or {}).items()):
        sha256.update(f"{key}={value}\0".encode())
    return sha256.hexdigest()


def _check_header(path: Path) -> None:
    """ValueError for a header longer than any of ours, so that it is not read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
        raise ValueError(f"its header claims {length:,} bytes")
