"""Training states of other repositories: PyTorch's own files, of which nothing but tensors, numbers and containers is read."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blurcli.checkpoint import Tensors
from blurcli.errors import UsageError, UserError, option

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_PREFIX = "module."  # of DataParallel


class _Ignored:
    """Takes the place of NumPy's numbers, such as the learning rate of the optimizer, of which nothing is needed."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Names in a file, none of which is looked up in NumPy.
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Ignored, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]


@dataclass(frozen=True)
class Checkpoint:
    """A network that another implementation has trained.

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

    `model` is the state dict of the network, `shadow_params` the averages of its parameters in the same order.

    Args:
        path: the file, as `torch.save` writes it.
        averaged: whether the averages are wanted, and not the parameters of the last step.

    Raises:
        UsageError: no such file, no file of PyTorch, no such training state, or one that holds objects which could run code.
        UserError: the file is damaged, or the parameters are not finite.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise _other(path, f"it is a {type(content).__name__}")
    model, step = content.get("model"), content.get("step")
    if not isinstance(model, Mapping) or not isinstance(step, int) or step < 0:
        raise _other(path, f"its keys are {_some(content)}")
    if not model or not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in model.items()):
        raise _other(path, "its model is not made of named tensors")
    tensors: list[Tensor] = list(model.values())
    if averaged:
        tensors = _averages(path, content.get("ema"), tensors)
    network = {name.removeprefix(_PREFIX): tensor.float().clone() for name, tensor in zip(model, tensors, strict=True)}
    for name, tensor in network.items():
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {name} is not finite; the training had diverged: use an earlier checkpoint")
    return Checkpoint(path, network, step)


def _averages(path: Path, ema: Any, tensors: list[Tensor]) -> list[Tensor]:
    averages = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if averages is None:
        raise UsageError(
            f"{path}: has no EMA of the weights (ema.shadow_params), which images are sampled with; "
            f"{option('no-ema')} imports the weights of the last step"
        )
    if not isinstance(averages, list) or not all(isinstance(tensor, Tensor) for tensor in averages):
        raise UserError(f"{path}: its EMA is not a list of tensors; the file is damaged")
    if [tensor.shape for tensor in averages] != [tensor.shape for tensor in tensors]:
        raise UserError(
            f"{path}: its EMA ({len(averages)} tensors) does not fit its network ({len(tensors)}): use another copy"
        )
    return averages


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:  # PyTorch does not check the sums
                damaged = archive.testzip()
            if damaged is not None:
                raise UserError(f"{path}: {damaged} in it does not match its checksum; it is damaged: use another copy")
        with torch.serialization.safe_globals(_STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UserError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError as error:
        if found := _GLOBAL.search(str(error)):
            raise UsageError(
                f"{path}: holds {found[1]}, not only tensors and numbers, and is not read, because such objects can run code. "
                "If you trust it, save what is needed of it anew, where it can be loaded: torch.save({'model': state['model'], "
                "'ema': state['ema'], 'step': int(state['step'])}, 'new.pth')"
            ) from None
        raise _unreadable(path, error) from None
    except Exception as error:  # what is no pickle can fail in any way
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [""])[0][:120]
    return UserError(
        f"{path}: not a readable checkpoint of PyTorch ({type(error).__name__}{f': {reason}' if reason else ''}); "
        "it may be truncated: use another copy"
    )


def _other(path: Path, found: str) -> UsageError:
    return UsageError(f"{path}: no training state with a network, its EMA and a step (model, ema, step): {found}")


def _some(content: Mapping[Any, Any]) -> str:
    names = [str(key)[:40] for key in list(content)[:5]]
    return ", ".join(names) + (", ..." if len(content) > 5 else "") if names else "none"
