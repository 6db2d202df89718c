"""How a network is called: device, precision, memory layout, compiler, batches of a fixed size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, get_args

import torch
from torch import Tensor, nn

from blurcli.base.checkpoint import check_fit
from blurcli.base.errors import OptionError
from blurcli.config import Config
from blurcli.core import UNet
from blurcli.core.denoiser import Network
from blurcli.core.execution import FixedBatches, agreement, images_per_call
from blurcli.model.weights import Weights

_MAX_BATCH = {"cpu": 64, "cuda": 512}  # images, by default; more are not faster
_MAX_BATCH_PIXELS = 1 << 18  # by default where free memory is unknown: a state takes about 400 bytes per pixel
_CALLS_PER_STEP = 2  # on a CPU, at most, so that steps report progress often also where calls are few images of a large network
_MEMORY_SHARE = 0.5  # of the free memory of a GPU, for a batch
_PROBE_IMAGES = 8  # images for measuring the memory per image
_WORTH_COMPILING = 500_000  # network calls times images


def choose_device(name: str) -> torch.device:
    """The device for a name: `cpu`, one of PyTorch's accelerators (`cuda`, `mps`, `xpu`), or `auto` for the best available.

    Raises:
        OptionError: there is no such device.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "cpu" or (name == "auto" and found is None):
        return torch.device("cpu")
    if found is None or name not in ("auto", found.type):
        builds = {"cuda": "; use cpu, or install a CUDA build of torch", "xpu": "; use cpu, or install an XPU build of torch"}
        other = "; use cpu" if found is None else f"; use {found.type} or cpu"
        raise OptionError("device", name, f"PyTorch finds no such device{other if found else builds.get(name, other)}")
    return torch.device(found.type)


def memory_format(config: Config, device: torch.device) -> torch.memory_format:
    """The memory layout of the preset; by default channels last on GPUs, contiguous on CPUs."""
    wanted = config.train.channels_last
    channels_last = device.type == "cuda" if wanted is None else wanted
    return torch.channels_last if channels_last else torch.contiguous_format


def in_precision(config: Config, precision: str | None) -> Config:
    """A configuration with another precision of the network: `auto`, `bf16` or `fp32`; None for its own.

    Raises:
        OptionError: there is no such precision.
    """
    if precision is None:
        return config
    known = get_args(type(config.train).model_fields["precision"].annotation)
    if precision not in known:
        raise OptionError("precision", precision, f"must be one of {', '.join(known)}")
    return config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})


def resolve_precision(config: Config, device: torch.device) -> str:
    """`bf16` or `fp32`: the preset's choice; for `auto` bf16 where the hardware multiplies it natively."""
    wanted = config.train.precision
    return wanted if wanted != "auto" else "bf16" if has_native_bf16(device) else "fp32"


def has_native_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16; otherwise bf16 is emulated, 15 to 50 times slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


@contextmanager
def evaluation_mode(*networks: nn.Module) -> Iterator[None]:
    """Set networks to evaluation mode while the block runs, then restore the mode of each."""
    before = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, training in zip(networks, before, strict=True):
            network.train(training)


def build_network(config: Config) -> UNet:
    """The U-Net of a configuration, newly initialized from PyTorch's global random state."""
    return UNet(**architecture(config))


def empty_network(config: Config) -> UNet:
    """The U-Net of a configuration without memory for its parameters, on the device `meta`."""
    with torch.device("meta"):
        return build_network(config)


def architecture(config: Config) -> dict[str, Any]:
    """The fields of `unet.Architecture` for a configuration."""
    data = config.data
    return {"channels": data.channels, "classes": data.classes, "augmented": data.augment > 0, **config.model.model_dump()}


def load_network(weights: Weights, device: torch.device) -> UNet:
    """The network of a weights file on a device, in evaluation mode.

    Raises:
        UserError: the tensors of the file do not fit its configuration.
    """
    network = empty_network(weights.config)
    # Before any memory is allocated: a damaged file can claim a huge network.
    check_fit(network, weights.network, weights.name)
    # Copied, because the tensors may be views of the file; assigned, because `to_empty` on `meta` imports SymPy, for seconds.
    tensors = {name: tensor.to(device, copy=True) for name, tensor in weights.network.items()}
    network.load_state_dict(tensors, assign=True)
    return network.to(memory_format=memory_format(weights.config, device)).requires_grad_(False).eval()


class CompileOrFallback:
    """A network with torch.compile, compiled at the first call with and without a gradient; if that fails, the plain network.

    Args:
        network: the module.
        notify: receives messages, because compiling takes minutes.
        mode: the mode of torch.compile.
    """

    def __init__(self, network: nn.Module, notify: Callable[[str], None], mode: str = "default") -> None:
        self._network = network
        self._call: Callable[..., Tensor] = torch.compile(network, dynamic=False, mode=mode)
        self._notify = notify
        self._proven: set[bool] = set()  # with a gradient, without

    def __call__(self, *arguments: Tensor | None, **conditions: Any) -> Tensor:
        """The output of the network for these arguments."""
        graph = torch.is_grad_enabled()
        if graph in self._proven:
            return self._call(*arguments, **conditions)
        if not self._proven:
            self._notify("compiling the network; this takes minutes")
        try:
            output = self._call(*arguments, **conditions)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a missing compiler raises many types
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._notify(f"the network cannot be compiled here ({reason}); continuing without compilation")
            self._call = self._network
            output = self._call(*arguments, **conditions)
            self._proven = {True, False}
        self._proven.add(graph)
        return output


def mixed_precision(network: Callable[..., Tensor], config: Config, device: torch.device) -> Network:
    """The network in the precision and memory layout of a configuration, on its device.

    Inputs may be on another device, see `core.execution.state_device`; the output has the dtype and the device of the input.
    """
    precision, layout = resolve_precision(config, device), memory_format(config, device)

    def call(x: Tensor, t: Tensor, /, **conditions: Any) -> Tensor:
        own = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in conditions.items()}
        with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
            output = network(x.float().to(device).contiguous(memory_format=layout), t.float().to(device), **own)
        return output.to(x)

    return call


class InferenceNetwork:
    """A trained network for sampling: in mixed precision, on a CPU in calls of a fixed size, compiled if that saves time.

    Args:
        network: the U-Net, in evaluation mode, on `device`.
        config: the resolved preset.
        device: where it runs.
        notify: receives messages.
    """

    def __init__(self, network: UNet, config: Config, device: torch.device, notify: Callable[[str], None]) -> None:
        self.network = network
        self._config, self._device, self._notify = config, device, notify
        self._call = self._plain = mixed_precision(network, config, device)
        if device.type == "cpu":  # where bits depend on the number of images
            shape = config.data.channels, *config.data.image_size
            self._call = FixedBatches(self._plain, self._call_images, agreement(self._plain, self._call_images, shape))
        self._compiled_for = 0
        self._batch_size: int | None = None

    def __call__(self, x: Tensor, t: Tensor, /, **conditions: Any) -> Tensor:
        """(B, C, H, W) and times (B,) to (B, C, H, W); conditions as for `UNet.forward`."""
        return self._call(x, t, **conditions)

    @property
    def _call_images(self) -> int:
        return images_per_call(self.network.parameter_count(), math.prod(self._config.data.image_size))

    @property
    def batch_size(self) -> int:
        """Images per batch: the preset's number, or as many as are useful and fit into free memory."""
        if self._batch_size is None:
            self._batch_size = self._config.sample.batch_size or self._fitting_batch_size()
        return self._batch_size

    @property
    def call_size(self) -> int:
        """Images per call of the network: a batch, on a CPU a part of it."""
        return min(self.batch_size, self._call_images) if self._device.type == "cpu" else self.batch_size

    def _fitting_batch_size(self) -> int:
        size, device = self._config.data.image_size, self._device
        most = _MAX_BATCH["cuda" if device.type == "cuda" else "cpu"]
        if device.type == "cpu":
            most = min(most, _CALLS_PER_STEP * self._call_images)
        if device.type != "cuda":  # a CPU, or an accelerator without a report of its free memory
            return max(1, min(most, _MAX_BATCH_PIXELS // math.prod(size)))
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with torch.inference_mode():
            x = torch.zeros(_PROBE_IMAGES, self._config.data.channels, *size, device=device)
            self._plain(x, torch.ones(_PROBE_IMAGES, device=device))
        per_image = (torch.cuda.max_memory_allocated(device) - before) / _PROBE_IMAGES
        torch.cuda.empty_cache()
        fitting = _MEMORY_SHARE * torch.cuda.mem_get_info(device)[0] / per_image
        return max(1, min(most, 1 << int(math.log2(max(1, fitting)))))

    def compile(self, batch_size: int, evaluations: int = 0) -> None:
        """Compile the network if the preset requests it, or if the coming evaluations are worth the time.

        Args:
            batch_size: largest batch of the coming calls.
            evaluations: coming network calls times images.
        """
        wanted = self._config.sample.compile
        if wanted is None:
            wanted = self._device.type == "cuda" and evaluations >= _WORTH_COMPILING
        if not wanted or self._compiled_for == batch_size:
            return
        self._compiled_for = batch_size
        # Batches of one size, so that it compiles once, and a GPU replays a single CUDA graph.
        on_gpu = self._device.type == "cuda"
        compiled = CompileOrFallback(self.network, self._notify, "reduce-overhead" if on_gpu else "default")
        per_call = batch_size if on_gpu else self._call_images
        network = mixed_precision(compiled, self._config, self._device)
        self._call = FixedBatches(network, per_call)
