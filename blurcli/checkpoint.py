"""Weights and training state as safetensors: never pickled, and whole or not there at all.

A weights file is enough to sample: EMA weights `net.*`, the data's moments `spectrum` and `mean` (per DCT frequency), for the
eps objective the `gain` of its estimates (per time and frequency band), for heat dissipation the `starts` (the few frequencies
that are left of blurred training images), and, in its metadata, the configuration and the classes as JSON, the step, the format
version and a SHA-256 over all of these: a file that a disk has damaged is not taken for a model. The network may be in float16.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from blurcli import files
from blurcli.config import Config, from_json, to_json
from blurcli.errors import UsageError, UserError

_FORMAT_VERSION = "1"
_LONGEST_HEADER = 1 << 23  # bytes; those of our networks have some 100 kB

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Classes:
    """The classes of the training images.

    Attributes:
        names: in the order of their numbers.
        counts: how many images each has.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """A trained network and all that sampling needs.

    Attributes:
        config: the resolved preset that it was trained by.
        step: training steps done.
        network: EMA parameters by name.
        spectrum: mean squared DCT coefficient of the data, (C, H, W) float64.
        mean: mean DCT coefficient, like `spectrum`.
        gain: what the network's departure from the Wiener filter is worth, (times, bands), see `CalibratedDenoiser`; or None.
        opponent: `spectrum` in opponent colours, where the network works in these (`core.colours`); else None.
        starts: for heat dissipation the DCT of the blurred training images, their lowest frequencies, (N, C, h, w); else None.
        classes: of a network that has learned them; else None.
        path: the file, for messages.
    """

    config: Config
    step: int
    network: Tensors
    spectrum: Tensor
    mean: Tensor
    gain: Tensor | None
    path: Path
    opponent: Tensor | None = None
    starts: Tensor | None = None
    classes: Classes | None = None


@dataclass(frozen=True)
class State:
    """All that an exact continuation needs; randomness follows from the seed and the step.

    Attributes:
        config: the resolved preset.
        step: training steps done.
        data: fingerprint of the training images.
        tensors: parameters, their moving average, and the moments of Adam, by name.
    """

    config: Config
    step: int
    data: str
    tensors: Tensors


def save_weights(weights: Weights) -> None:
    """Write a weights file to `weights.path`, atomically."""
    tensors = {f"net.{name}": tensor for name, tensor in weights.network.items()}
    tensors |= {"spectrum": weights.spectrum, "mean": weights.mean}
    optional = {"gain": weights.gain, "opponent": weights.opponent, "starts": weights.starts}
    tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    metadata = {"kind": "weights", "config": to_json(weights.config), "step": str(weights.step)}
    if weights.classes is not None:
        metadata["classes"] = json.dumps(asdict(weights.classes))
    _save(weights.path, tensors, metadata)


def load_weights(path: Path) -> Weights:
    """Read a weights file.

    Raises:
        UsageError: there is no such file, or it is no weights file of ours.
        UserError: it is damaged.
    """
    metadata, tensors = _load(path, "weights")
    try:
        spectrum, mean = tensors.pop("spectrum"), tensors.pop("mean")
    except KeyError as missing:
        raise UserError(f"{path}: the tensor {missing} is missing; the file is damaged") from None
    gain, opponent, starts = (tensors.pop(name, None) for name in ("gain", "opponent", "starts"))
    network = {name.removeprefix("net."): _single(tensor) for name, tensor in tensors.items()}
    config, step = from_json(metadata["config"], str(path)), _step(metadata, path)
    return Weights(config, step, network, spectrum, mean, gain, path, opponent, starts, _classes(metadata, config, path))


def _single(tensor: Tensor) -> Tensor:
    """Parameters that were kept in 16 bits are computed with in 32."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def in_half(weights: Weights, path: Path) -> Weights:
    """These weights for a file of half the size at `path`, the network in float16 and without where its images lay.

    Raises:
        UserError: a parameter is too large for float16.
    """
    network = {name: tensor.half() for name, tensor in weights.network.items()}
    for name, tensor in network.items():
        if not tensor.isfinite().all():
            raise UserError(f"{weights.path}: net.{name} does not fit into 16 bits (65,504 at most): share the file as it is")
    data = weights.config.data
    if Path(data.source).name != data.source:  # a path, whose last part might be a dataset's name
        data = data.model_copy(update={"source": "images"})
    config = weights.config.model_copy(update={"data": data})
    return replace(weights, config=config, network=network, path=path)


def save_state(path: Path, state: State, keep: Path) -> None:
    """Write a training state, atomically; the one that was at `path` goes to `keep`."""
    metadata = {"kind": "state", "config": to_json(state.config), "step": str(state.step), "data": state.data}
    _save(path, state.tensors, metadata, keep)


def load_state(path: Path) -> State:
    """Read a training state; errors as for `load_weights`."""
    metadata, tensors = _load(path, "state")
    return State(from_json(metadata["config"], str(path)), _step(metadata, path), metadata.get("data", ""), tensors)


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """UserError where the names and shapes of `tensors` are not those of a module's parameters, which may be on `meta`."""
    parameters = module.state_dict()
    for name in sorted(parameters.keys() ^ tensors.keys()):
        raise UserError(
            f"{path}: its tensors do not fit its configuration (net.{name} is {'missing' if name in parameters else 'unknown'})"
        )
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape or tensor.dtype != parameters[name].dtype:
            raise UserError(
                f"{path}: its tensors do not fit its configuration (net.{name} is {_form(tensor)}, "
                f"the network needs {_form(parameters[name])})"
            )


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def content_hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """The SHA-256, in hex, over tensors (names, dtypes, shapes, bytes) and metadata: the same in whatever order they are."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        if tensor.numel():  # there is no view of nothing
            sha256.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    for key, value in sorted((metadata or {}).items()):
        sha256.update(f"{key}={value}\0".encode())
    return sha256.hexdigest()


def _save(path: Path, tensors: Tensors, metadata: dict[str, str], keep: Path | None = None) -> None:
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    metadata = {"format": "blurdiff", "format_version": _FORMAT_VERSION, **metadata}
    with files.replacing(path, keep) as temporary:
        try:
            save_file(plain, temporary, {**metadata, "sha256": content_hash(plain, metadata)})
        except SafetensorError as error:
            # safetensors wraps what the system said, a full disk included, in its own exception.
            raise UserError(f"{path}: cannot be written ({error}): make room, or choose another place") from error


def _load(path: Path, kind: str) -> tuple[dict[str, str], Tensors]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format") != "blurdiff" or metadata.get("kind") != kind or "config" not in metadata:
                raise UsageError(f"{path}: a safetensors file, but no {kind} file of blurdiff")
            if metadata.get("format_version") != _FORMAT_VERSION:
                version = metadata.get("format_version")
                raise UsageError(f"{path}: has format version {version}; this blurdiff reads {_FORMAT_VERSION}: update it")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); it may be cut short: use another copy") from None
    recorded = metadata.pop("sha256", "")
    if content_hash(tensors, metadata) != recorded:
        raise UserError(f"{path}: its content does not have the checksum that was recorded; it is damaged: use another copy")
    return metadata, tensors


def _check_header(path: Path) -> None:
    """ValueError for a header that is longer than any of ours: it is not read at all."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(_LONGEST_HEADER, path.stat().st_size - 8):
        raise ValueError(f"its header claims {length:,} bytes")


def _classes(metadata: Mapping[str, str], config: Config, path: Path) -> Classes | None:
    if config.data.classes is None:
        return None
    try:
        plain = json.loads(metadata["classes"])
        classes = Classes(tuple(str(name) for name in plain["names"]), tuple(int(count) for count in plain["counts"]))
        if (
            not len(classes.names) == len(classes.counts) == config.data.classes
            or min(classes.counts) < 0
            or not sum(classes.counts)
        ):
            raise ValueError("not as many as its configuration says")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: its classes cannot be read ({error}); the file is damaged") from None
    return classes


def _step(metadata: Mapping[str, str], path: Path) -> int:
    text = metadata.get("step", "")
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{path}: its step {text!r} is no number; the file is damaged")
    return int(text)
