"""Weights and training state as safetensors: never pickled, and whole or not there at all.

A weights file is enough to sample: EMA weights `net.*`, the data's moments `spectrum` and `mean` (per DCT frequency), for the
eps objective the `gain` of its estimates (per time and frequency band), and, in its metadata, the configuration as JSON, the
step and the format version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from blurcli import files
from blurcli.config import Config, from_json, to_json
from blurcli.errors import UsageError, UserError

_FORMAT_VERSION = "1"

Tensors = dict[str, Tensor]


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
        path: the file, for messages.
    """

    config: Config
    step: int
    network: Tensors
    spectrum: Tensor
    mean: Tensor
    gain: Tensor | None
    path: Path


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
    if weights.gain is not None:
        tensors["gain"] = weights.gain
    _save(weights.path, tensors, {"kind": "weights", "config": to_json(weights.config), "step": str(weights.step)})


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
    gain = tensors.pop("gain", None)
    network = {name.removeprefix("net."): tensor for name, tensor in tensors.items()}
    return Weights(from_json(metadata["config"], str(path)), _step(metadata, path), network, spectrum, mean, gain, path)


def save_state(path: Path, state: State) -> None:
    """Write a training state, atomically."""
    metadata = {"kind": "state", "config": to_json(state.config), "step": str(state.step), "data": state.data}
    _save(path, state.tensors, metadata)


def load_state(path: Path) -> State:
    """Read a training state; errors as for `load_weights`."""
    metadata, tensors = _load(path, "state")
    return State(from_json(metadata["config"], str(path)), _step(metadata, path), metadata.get("data", ""), tensors)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a module's parameters by name.

    Raises:
        UserError: a name is missing or unknown, or a shape differs; the module is as before.
    """
    parameters = module.state_dict()
    for name in sorted(parameters.keys() ^ tensors.keys()):
        raise UserError(
            f"{path}: its tensors do not fit its configuration (net.{name} is {'missing' if name in parameters else 'unknown'})"
        )
    for name, tensor in tensors.items():
        if tensor.shape != parameters[name].shape:
            raise UserError(
                f"{path}: its tensors do not fit its configuration (net.{name} has shape {tuple(tensor.shape)}, "
                f"the network needs {tuple(parameters[name].shape)})"
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def _save(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with files.replacing(path) as temporary:
        try:
            save_file(plain, temporary, {"format": "blurdiff", "format_version": _FORMAT_VERSION, **metadata})
        except SafetensorError as error:
            # safetensors wraps what the system said, a full disk included, in its own exception.
            raise UserError(f"{path}: cannot be written ({error}): make room, or choose another place") from error


def _load(path: Path, kind: str) -> tuple[dict[str, str], Tensors]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format") != "blurdiff" or metadata.get("kind") != kind or "config" not in metadata:
                raise UsageError(f"{path}: a safetensors file, but no {kind} file of blurdiff")
            if metadata.get("format_version") != _FORMAT_VERSION:
                version = metadata.get("format_version")
                raise UsageError(f"{path}: has format version {version}; this blurdiff reads {_FORMAT_VERSION}: update it")
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); it may be cut short: use another copy") from None


def _step(metadata: Mapping[str, str], path: Path) -> int:
    text = metadata.get("step", "")
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{path}: its step {text!r} is no number; the file is damaged")
    return int(text)
