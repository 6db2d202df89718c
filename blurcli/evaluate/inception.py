"""Inception as in clean-fid: its three modes, and the location of the network's file.

Published FIDs use TensorFlow's Inception of 2015. clean-fid has it as TorchScript for the modes `clean` and
`legacy_tensorflow`, and as a PyTorch state dict for `legacy_pytorch`.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from blurcli.base import downloads
from blurcli.base.cache import cache_folder
from blurcli.base.errors import UsageError, UserError, option

VARIABLE = "BLURDIFF_INCEPTION"
DIMENSIONS = 2048
_SIDE = 299  # pixels
_ALTERNATIVE = f"score with {option('features')} pixels or {option('features')} FILE, which need no download: an FD, not an FID"


@dataclass(frozen=True)
class _Published:
    """A published file."""

    name: str
    sha256: str


_TORCHSCRIPT = _Published("inception-2015-12-05.pt", "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4")
_STATE = _Published("pt_inception-2015-12-05-6726825d.pth", "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2")


def _published(mode: str) -> _Published:
    return _STATE if mode == "legacy_pytorch" else _TORCHSCRIPT


def is_published(mode: str, sha256: str) -> bool:
    """Whether a hash is that of the network of published FIDs."""
    return sha256 == _published(mode).sha256


def locate(mode: str, given: Path | None, progress: downloads.Progress) -> tuple[Path, str]:
    """The file of the network, and its SHA-256 in hex.

    Searched in this order: `given` (a file, or its folder), the environment variable $BLURDIFF_INCEPTION (likewise, or the
    http(s) address of a mirror), the cache, clean-fid's location. A missing file is downloaded to the cache.

    Raises:
        UsageError: `given` or the variable names a missing file.
        UserError: the download fails, or the file in the cache has changed since it was recorded.
    """
    published = _published(mode)
    variable = os.environ.get(VARIABLE, "")
    mirror = variable if variable.startswith(("http://", "https://")) else None
    if given is not None:
        return _named(given, f"{option('inception')} {given}", published)
    if variable and mirror is None:
        return _named(Path(variable), f"${VARIABLE} ({variable})", published)
    path = cache_folder() / "inception" / published.name
    if path.is_file():
        return path, downloads.verify(path)
    elsewhere = _clean_fid_path(mode)
    if elsewhere.is_file():
        digest = downloads.file_sha256(elsewhere)
        # Any user of the machine may be able to write there, and a network is code.
        if digest == published.sha256 or _is_ours(elsewhere):
            return elsewhere, digest
    url, sha256 = (mirror, None) if mirror is not None else (_address(mode), published.sha256)
    try:
        downloads.fetch(url, path, lambda temporary: _check(temporary, mode), progress, sha256)
    except downloads.DownloadError as error:
        fetched = "blurdiff prefetch --preset cifar10-blur" + (f" --mode {mode}" if mode != "clean" else "")
        raise UserError(
            f"the Inception network is not here and cannot be downloaded: {error.reason}. Without it, {_ALTERNATIVE}. Or name "
            f"its file {published.name} with {option('inception')} or ${VARIABLE}, put it at {path}, or fetch it with a "
            f"network: {fetched} (from {error.url})"
        ) from None
    return path, downloads.verify(path)


def _named(path: Path, given_as: str, published: _Published) -> tuple[Path, str]:
    file = path / published.name if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{given_as}: no such file{f' ({published.name} in it)' if path.is_dir() else ''}; or {_ALTERNATIVE}")
    return file, downloads.file_sha256(file)


def _address(mode: str) -> str:
    if mode == "legacy_pytorch":
        from cleanfid.inception_pytorch import FID_WEIGHTS_URL

        return str(FID_WEIGHTS_URL)
    from cleanfid.downloads_helper import inception_url

    return str(inception_url)


def _clean_fid_path(mode: str) -> Path:
    if mode == "legacy_pytorch":
        return Path(torch.hub.get_dir()) / "checkpoints" / _STATE.name
    return Path("./" if platform.system() == "Windows" else "/tmp") / _TORCHSCRIPT.name


def _is_ours(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()


def _check(path: Path, mode: str) -> None:
    load(path, mode, torch.device("cpu"))


def load(path: Path, mode: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network of a file: resized images (B, 3, H, W) in 0..255 to features (B, 2048), as in clean-fid.

    Raises:
        UserError: the file is not this network.
    """
    try:
        network: Any = _load_state(path) if mode == "legacy_pytorch" else _load_layers(path, device)
    except Exception as error:  # on damaged content the readers raise nearly anything
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: not the Inception network of mode {mode}, {_published(mode).name} ({reason})") from None
    network = network.to(device).eval()
    if mode == "legacy_tensorflow":
        return lambda x: network(x, return_features=True).view(len(x), DIMENSIONS)

    def features(x: Tensor) -> Tensor:
        if mode == "legacy_pytorch":
            result: Tensor = network(2 * (x / 255) - 1).squeeze(-1).squeeze(-1)
        else:
            result = network.layers.forward((x - 128) / 128).view(len(x), DIMENSIONS)
        return result

    return _channels_last(features) if device.type == "cpu" and _is_deep(network, mode) else features


def _is_deep(network: Any, mode: str) -> bool:
    """Whether the network consists of convolutions, like Inception (94 of them), unlike a placeholder in tests."""
    if mode == "legacy_pytorch":
        return True
    graph = network.layers.inlined_graph
    return sum(len(graph.findAllNodes(kind)) for kind in ("aten::conv2d", "aten::_convolution")) > 8


def _channels_last(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The network on images in channels-last order, which nearly halves its time on a CPU; unchanged if that fails."""

    def reordered(x: Tensor) -> Tensor:
        return network(x.contiguous(memory_format=torch.channels_last))

    try:
        with torch.inference_mode():
            reordered(torch.zeros(1, 3, _SIDE, _SIDE))
    except RuntimeError:  # a script may rely on the memory layout
        return network
    return reordered


def load_torchscript(path: Path, device: torch.device) -> Any:
    """The network of a TorchScript file, in evaluation mode."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # advice to authors of such files
        return torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]


def _load_layers(path: Path, device: torch.device) -> Any:
    network = load_torchscript(path, device)
    if not hasattr(network, "layers"):
        raise ValueError("it has no layers")
    return network


def _load_state(path: Path) -> nn.Module:
    # The file is a pickle, and published only in this form: `weights_only` reads tensors and runs no code.
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # about files of another kind, which fail below
        state = torch.load(path, map_location="cpu", weights_only=True)
    return pytorch_network(lambda network: network.load_state_dict(state))


def pytorch_network(initialize: Callable[[nn.Module], object]) -> nn.Module:
    """The network of `legacy_pytorch`: images (B, 3, 299, 299) in [-1, 1] to features (B, 2048, 1, 1).

    Torchvision's Inception with clean-fid's blocks; clean-fid's own class downloads its weights and does not verify them.

    Args:
        initialize: receives the whole network, with its classifier, and sets its weights.
    """
    from cleanfid import inception_pytorch as blocks
    from torchvision.models import inception_v3

    network = inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    for name, channels, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        setattr(network, f"Mixed_{name}", blocks.FIDInceptionA(channels, pooled))
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(network, f"Mixed_{name}", blocks.FIDInceptionC(768, width))
    network.Mixed_7b = blocks.FIDInceptionE_1(1280)
    network.Mixed_7c = blocks.FIDInceptionE_2(2048)
    initialize(network)
    *layers, _dropout, _classifier = network.children()
    return nn.Sequential(*layers).requires_grad_(False)


def resize(images: Tensor, mode: str) -> Tensor:
    """Images (B, C, H, W) uint8, resized for the network of a mode, float32 in 0..255; bit for bit clean-fid's pixels.

    `clean` resizes with antialiasing (Parmar et al. 2022, arXiv 2104.11222), `legacy_pytorch` without. The network of
    `legacy_tensorflow` resizes by itself.
    """
    if mode == "legacy_tensorflow":
        return images.float()
    if mode == "legacy_pytorch":
        return F.interpolate(images.float(), (_SIDE, _SIDE), mode="bilinear", align_corners=False).clamp(0, 255)
    sized = np.empty((*images.shape[:2], _SIDE, _SIDE), np.float32)
    for image, out in zip(images.numpy(), sized, strict=True):
        for channel, plane in zip(image, out, strict=True):
            floating = Image.fromarray(channel.astype(np.float32))
            plane[:] = floating.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(sized.clip(0, 255, out=sized))
