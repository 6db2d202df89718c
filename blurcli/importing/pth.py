"""Training states of other repositories in PyTorch's format; only tensors, numbers and containers are read."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blurcli.base.checkpoint import Tensors
from blurcli.base.errors import UsageError, UserError, option

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Prefixes that DataParallel, torch.compile, FSDP and activation checkpoints add to names of parameters, at any depth."""
_NUMBER = re.compile("[iuf][1248]")  # of NumPy's types


class _NumpyType:
    """Replaces NumPy's dtype."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _NumpyNumber:
    """Replaces NumPy's numbers, such as a step or a learning rate."""

    def __init__(self, kind: object = None, content: object = b"", *_: object) -> None:
        self._kind, self._content = kind, content

    def item(self) -> int | float | None:
        """The number; None if it is not a number."""
        kind, content = self._kind, self._content
        if not isinstance(kind, _NumpyType) or not _NUMBER.fullmatch(str(kind.name)) or not isinstance(content, bytes):
            return None
        numbers = np.frombuffer(content, f"{'>' if kind.order == '>' else '<'}{kind.name}")
        return numbers.item() if numbers.size == 1 else None


# Names in a file; none is looked up in NumPy.
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_NumpyType, "numpy.dtype"),
    *((_NumpyNumber, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


@dataclass(frozen=True)
class Checkpoint:
    """A network trained by another implementation.

    Attributes:
        path: the file, for messages.
        network: parameters, float32, by the names of that implementation.
        step: training steps done.
    """

    path: Path
    network: Tensors
    step: int


def read_checkpoint(path: Path, averaged: bool = True) -> Checkpoint:
    """Read a file `{"model": ..., "ema": {"shadow_params": [...], ...}, "step": ..., ...}`.

    `model` is the state dict of the network, `shadow_params` the averages of its parameters in the same order. `ema` may
    also be the averages alone, in that order or by name.

    Args:
        path: the file, as `torch.save` writes it.
        averaged: whether to use the averages; else the parameters of the last step.

    Raises:
        UsageError: no such file, not a file of PyTorch, another content, or objects that could run code.
        UserError: the file is damaged, or the parameters are not finite.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise _other(path, f"a {type(content).__name__}")
    if not isinstance(content.get("model"), Mapping) or "step" not in content:
        raise _other(path, *_hinted(content))
    step, network = _step(path, content["step"]), _named(path, "model", content["model"])
    if averaged:
        network = _averages(path, content.get("ema"), network)
    for name, tensor in network.items():
        if tensor.layout != torch.strided or not tensor.is_floating_point() or tensor.is_meta:
            kind = f"{tensor.layout}, {tensor.dtype}, on {tensor.device}"
            raise UsageError(
                f"{path}: {name} is not a dense tensor of floating-point numbers ({kind}): save it again as one, where it can "
                "be loaded"
            )
        network[name] = tensor.detach().float().clone()
        if not network[name].isfinite().all():
            raise UserError(f"{path}: {name} is not finite; the training had diverged: use an earlier checkpoint")
    return Checkpoint(path, network, step)


def _named(path: Path, key: str, tensors: Mapping[Any, Any]) -> Tensors:
    """The tensors of a state dict by their names in the network itself, without the names of wrappers."""
    if not tensors or not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()):
        raise UsageError(f"{path}: its {key} is not made of named tensors")
    parts = [[part for part in name.split(".") if part not in _WRAPPERS] for name in tensors]
    while len({name[0] for name in parts if name}) == 1 and all(len(name) > 2 for name in parts):
        parts = [name[1:] for name in parts]
    found: Tensors = {}
    for given, name, tensor in zip(tensors, map(".".join, parts), tensors.values(), strict=True):
        if name in found:
            raise UsageError(f"{path}: its {key} holds {name} twice, once as {given}: save it again without the copy")
        found[name] = tensor
    return found


def _step(path: Path, given: Any) -> int:
    """Training steps, which can have many types."""
    value = given
    if isinstance(given, _NumpyNumber) or (isinstance(given, Tensor) and given.numel() == 1 and not given.is_meta):
        value = given.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        shown = repr(value)[:40] if isinstance(value, int | float | str) else f"a {type(value).__name__}"
        raise UsageError(
            f"{path}: its step is {shown}, not a whole number of at least 0: save it again, where it can be loaded, with "
            "'step': int(state['step'])"
        )
    return value


def _averages(path: Path, ema: Any, network: Tensors) -> Tensors:
    """The averages of the parameters of a network, by their names."""
    averages = ema.get("shadow_params") if isinstance(ema, Mapping) else ema
    if averages is None and ema and all(isinstance(tensor, Tensor) for tensor in ema.values()):
        by_name = _named(path, "ema", ema)
        averages = [by_name[name] for name in network if name in by_name]
    if averages is None:
        raise UsageError(
            f"{path}: has no EMA of the weights (ema.shadow_params), which images are sampled with; "
            f"{option('no-ema')} imports the weights of the last step"
        )
    if not isinstance(averages, list | tuple) or not all(isinstance(tensor, Tensor) for tensor in averages):
        raise UserError(f"{path}: its EMA is not a list of tensors; {option('no-ema')} imports the weights of the last step")
    if [tensor.shape for tensor in averages] != [tensor.shape for tensor in network.values()]:
        raise UserError(
            f"{path}: its EMA ({len(averages)} tensors) does not fit its network ({len(network)}): use another copy"
        )
    return dict(zip(network, averages, strict=True))


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:  # PyTorch does not check the checksums
                damaged = archive.testzip()
            if damaged is not None:
                raise UserError(f"{path}: {damaged} in it does not match its checksum; it is damaged: use another copy")
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about slow sparse tensors
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UserError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError as error:
        if found := _GLOBAL.search(str(error)):
            raise UsageError(
                f"{path}: holds {found[1]}, not only tensors and numbers, and is not read, because such objects can run code. "
                "If you trust it, load it where that is possible, and save the needed parts again: torch.save({'model': "
                "state['model'], 'ema': state['ema'], 'step': int(state['step'])}, 'new.pth')"
            ) from None
        raise _unreadable(path, error) from None
    except Exception as error:  # other content can fail in any way
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [""])[0][:120]
    return UserError(
        f"{path}: not a readable checkpoint of PyTorch ({type(error).__name__}{f': {reason}' if reason else ''}); "
        "it may be truncated: use another copy"
    )


def _other(path: Path, found: str, hint: str = "") -> UsageError:
    return UsageError(f"{path}: expected a checkpoint with the keys model, ema and step; found {found}{hint}")


def _hinted(content: Mapping[Any, Any]) -> tuple[str, str]:
    """The keys of an unknown content, and how to make a checkpoint from it if it holds a network."""
    step = "state['global_step']" if "global_step" in content else "0"
    if isinstance(content.get("state_dict"), Mapping):
        network = "state['state_dict']"
    elif isinstance(content.get("model"), Mapping):
        network = "state['model']"
    elif content and all(isinstance(value, Tensor) for value in content.values()):
        network = "state"
    else:
        return _some(content), ""
    new = f"torch.save({{'model': {network}, 'step': {step}}}, 'new.pth')"
    return _some(content), f": save it again, where it can be loaded, with {new}, and import that with {option('no-ema')}"


def _some(content: Mapping[Any, Any]) -> str:
    names = [str(key)[:40] for key in list(content)[:5]]
    return ", ".join(names) + (", ..." if len(content) > 5 else "") if names else "none"
