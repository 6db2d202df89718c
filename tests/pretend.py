"""A pretend accelerator, for what otherwise only a GPU would show: python pretend.py REPORT [--no-float64] < commands.json

PyTorch keeps its tensors apart from those of the CPU, where their values are: an operation on both is an error, and so is a
tensor of float64 after `--no-float64`, as on Apple's GPUs. What makes the host wait for the device is recorded while a training
step runs. Command lines, JSON lists on stdin, run one after the other; the report is a JSON file.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

NAME = "pretend"
aten = torch.ops.aten
TRANSFERS = {aten._to_copy, aten.copy_, aten._copy_from}
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten._unique2}


class Rules:
    """What the device has, and what it saw."""

    float64 = True
    watching = False
    waits: list[str] = []  # noqa: RUF012  one device per process


class DeviceTensor(torch.Tensor):
    """A tensor of the device; `values` are on the CPU."""

    values: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> DeviceTensor:
        if values.dtype == torch.float64 and not Rules.float64:
            raise TypeError(f"a tensor of float64 on a device without it, {caller()}")
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        own = torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype, device=torch.device(NAME, 0), **layout)
        own.values = values
        return own

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{NAME} tensor {tuple(self.shape)}"

    def __format__(self, form: str) -> str:
        return format(self.item(), form)

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"a tensor of the device is no NumPy array, {caller()}")

    def tolist(self) -> Any:
        note_wait("tolist")
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, kinds: Any, arguments: Any = (), options: Any = None) -> Any:
        options = dict(options or {})
        packet, given = function.overloadpacket, [*tensors_in((*arguments, *options.values()))]
        ours = [tensor for tensor in given if isinstance(tensor, DeviceTensor)]
        if packet not in TRANSFERS and any(t.dim() for t in given if not isinstance(t, DeviceTensor)):
            raise RuntimeError(f"{packet}: tensors of two devices, {caller()}")
        if packet in WAITING:
            note_wait(str(packet))
        here = bool(ours) if packet is not aten.copy_ else isinstance(arguments[0], DeviceTensor)
        if (wanted := options.get("device")) is not None:
            here = torch.device(wanted).type == NAME
            options["device"] = torch.device("cpu")
        if packet in TRANSFERS and ours and not here:
            note_wait("copy to the CPU")
        result = function(*mapped(arguments, bare), **{name: mapped(value, bare) for name, value in options.items()})
        if not here:
            return result
        known = {id(tensor.values): tensor for tensor in ours}
        return mapped(result, lambda value: known[id(value)] if id(value) in known else DeviceTensor(value))


def tensors_in(values: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested lists and tuples; PyTorch's own function for that takes most of the time of small operations."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Nested lists and tuples with other tensors."""
    if isinstance(value, torch.Tensor):
        return change(value)
    return type(value)([mapped(part, change) for part in value]) if isinstance(value, list | tuple) else value


def bare(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor of the device, or a tensor of the CPU."""
    return tensor.values if isinstance(tensor, DeviceTensor) else tensor  # type: ignore[return-value]


def caller() -> str:
    """The innermost line of the package on the stack."""
    lines = [f"{Path(f.filename).name}:{f.lineno} {f.line}" for f in traceback.extract_stack() if "/blurcli/" in f.filename]
    return lines[-1] if lines else "outside of the package"


def note_wait(what: str) -> None:
    """Something makes the host wait for the device."""
    if Rules.watching:
        Rules.waits.append(f"{what}: {caller()}")


def register() -> torch.library.Library:
    """Make the device, before the package is imported; it lasts as long as the result."""
    module = types.ModuleType(NAME)
    for name, answer in {"is_initialized": True, "is_available": True, "current_device": 0, "device_count": 1}.items():
        setattr(module, name, lambda answer=answer: answer)
    module._is_in_bad_fork = lambda: False  # type: ignore[attr-defined]
    module.synchronize = lambda: None  # type: ignore[attr-defined]
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]  # type: ignore[attr-defined]
    module.manual_seed_all = lambda seed: None  # type: ignore[attr-defined]  # values are drawn by the CPU's generator
    torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=module)
    kernels = torch.library.Library("aten", "IMPL")

    def made(function: Any) -> Callable[..., Any]:
        def make(*arguments: Any, **options: Any) -> DeviceTensor:
            options = {name: value for name, value in options.items() if name not in ("device", "pin_memory")}
            return DeviceTensor(function(*arguments, **options, device="cpu"))

        return make

    def copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        assert isinstance(target, DeviceTensor)  # else `__torch_dispatch__` of the source got it
        target.values.copy_(source)
        return target

    kernels.impl("empty.memory_format", made(aten.empty.memory_format), "PrivateUse1")
    kernels.impl("empty_strided", made(aten.empty_strided.default), "PrivateUse1")
    kernels.impl("_copy_from", copy_from, "PrivateUse1")
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.Tensor.pin_memory = lambda self, device=None: self  # type: ignore[method-assign]
    # Tensors of inference mode have no __torch_dispatch__.
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext()  # type: ignore[assignment,misc]
    return kernels


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Record waits while the block runs."""
    Rules.watching = True
    try:
        yield
    finally:
        Rules.watching = False


def run(commands: list[list[str]]) -> dict[str, Any]:
    """Run command lines; what each ended with, and where a training step waited."""
    from blurcli.cli import main
    from blurcli.training.trainer import Trainer

    step = Trainer.train_step

    def watched_step(self: Trainer, *arguments: Any, **options: Any) -> Any:
        with watched():
            return step(self, *arguments, **options)

    Trainer.train_step = watched_step  # type: ignore[method-assign]
    ends = []
    for command in commands:
        shown = io.StringIO()
        code: Any = 0
        with contextlib.redirect_stdout(shown):
            try:
                main(command)
            except SystemExit as end:
                code = end.code or 0
        ends.append({"code": code, "out": shown.getvalue()})
    return {"ends": ends, "waits": Rules.waits}


if __name__ == "__main__":
    Rules.float64 = "--no-float64" not in sys.argv
    library = register()
    Path(sys.argv[1]).write_text(json.dumps(run(json.load(sys.stdin))), encoding="utf-8")
