"""How a network is called: device, precision, memory layout, compiler, batches of one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from blurcli.config import Config
from blurcli.errors import UsageError


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device; UsageError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no CUDA GPU here; use --device cpu, or install a CUDA build of torch")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def memory_format(config: Config, device: torch.device) -> torch.memory_format:
    """The layout of images as the preset says, or as is fastest: channels last on GPUs, and no matter on CPUs."""
    wanted = config.train.channels_last
    channels_last = device.type == "cuda" if wanted is None else wanted
    return torch.channels_last if channels_last else torch.contiguous_format


class Compiled:
    """A network behind torch.compile, compiled at its first call; where that fails, the network as it is.

    Args:
        network: the module.
        say: gets messages for a person, since compiling takes its time.
        mode: of torch.compile.
    """

    def __init__(self, network: nn.Module, say: Callable[[str], None], mode: str = "default") -> None:
        self._network = network
        self._call: Callable[..., Tensor] = torch.compile(network, dynamic=False, mode=mode)
        self._say = say
        self._proven = False

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        """What the network makes of the arguments."""
        if self._proven:
            return self._call(*arguments)
        self._say("compiling the network; this takes minutes")
        try:
            output = self._call(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # there are many ways in which a compiler can be missing
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._say(f"it cannot be compiled here ({reason}); going on without")
            self._call = self._network
            output = self._call(*arguments)
        self._proven = True
        return output


def mixed_precision(network: Callable[..., Tensor], config: Config, device: torch.device) -> Callable[..., Tensor]:
    """The network, run in the precision and layout of a configuration; input and output keep the caller's dtype.

    `auto` is bfloat16 where the hardware multiplies it natively. Arguments after (x, t) are passed on.
    """
    precision, layout = resolve_precision(config, device), memory_format(config, device)

    def call(x: Tensor, t: Tensor, *others: Tensor | None) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = network(x.float().contiguous(memory_format=layout), t, *others)
        return output.to(x.dtype)

    return call


def resolve_precision(config: Config, device: torch.device) -> str:
    """`bf16` or `fp32`, as the preset says or the hardware suggests."""
    wanted = config.train.precision
    return wanted if wanted != "auto" else "bf16" if _has_bf16(device) else "fp32"


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def in_lanes(network: Callable[..., Tensor], count: int) -> Callable[..., Tensor]:
    """The network, called on `count` images at a time, the last ones padded: image i is the same in any batch."""

    def call(x: Tensor, *others: Tensor | None) -> Tensor:
        number = -(-len(x) // count)

        def lanes(tensor: Tensor | None) -> Sequence[Tensor | None]:
            if tensor is None:
                return [None] * number
            padding = tensor[:1].expand(number * count - len(x), *tensor.shape[1:])
            return torch.split(torch.cat([tensor, padding]), count)

        # A CUDA graph gives every output in the same place.
        parts = [network(*lane).clone() for lane in zip(lanes(x), *map(lanes, others), strict=True)]
        return torch.cat(parts)[: len(x)]

    return call
