"""Inception as clean-fid uses it: its three modes, and where the network's file comes from.

The published FIDs are those of the TensorFlow network of 2015. clean-fid reads it as TorchScript for the modes `clean` and
`legacy_tensorflow`, and as a PyTorch state for `legacy_pytorch`.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from blurcli import download
from blurcli.data.cache import cache_folder
from blurcli.errors import UsageError, UserError

VARIABLE = "BLURDIFF_INCEPTION"
_SIDE = 299  # pixels
DIMENSIONS = 2048
_INSTEAD = "score with --features pixels or --features FILE, which need no download: an FD, not an FID"


@dataclass(frozen=True)
class _Published:
    """A file as its publisher ships it."""

    name: str
    sha256: str


_TORCHSCRIPT = _Published("inception-2015-12-05.pt", "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4")
_STATE = _Published("pt_inception-2015-12-05-6726825d.pth", "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2")


def _published(mode: str) -> _Published:
    return _STATE if mode == "legacy_pytorch" else _TORCHSCRIPT


def is_published(mode: str, sha256: str) -> bool:
    """Whether that is the hash of the network that the field's FIDs are measured with."""
    return sha256 == _published(mode).sha256


def locate(mode: str, given: Path | None, progress: download.Progress) -> tuple[Path, str]:
    """The file of the network and its SHA-256.

    Looked for in this order: `given` (a file, or a folder that holds it), the environment variable $BLURDIFF_INCEPTION
    (likewise, or the http(s) address of a mirror), the cache, and where clean-fid keeps it; else it is downloaded to the cache.

    Raises:
        UsageError: `given` or the variable names no such file.
        UserError: it cannot be downloaded, or what lies in the cache has changed since.
    """
    published = _published(mode)
    variable = os.environ.get(VARIABLE, "")
    mirror = variable if variable.startswith(("http://", "https://")) else None
    if given is not None:
        return _named(given, f"--inception {given}", published)
    if variable and mirror is None:
        return _named(Path(variable), f"${VARIABLE} ({variable})", published)
    path = cache_folder() / "inception" / published.name
    if path.is_file():
        return path, download.verify(path)
    elsewhere = _clean_fids_own(mode)
    if elsewhere.is_file():
        digest = download.file_sha256(elsewhere)
        # It may be a folder that all users of a machine can write to, and a network is code.
        if digest == published.sha256 or _is_ours(elsewhere):
            return elsewhere, digest
    url, sha256 = (mirror, None) if mirror is not None else (_address(mode), published.sha256)
    try:
        download.fetch(url, path, lambda temporary: _check(temporary, mode), progress, sha256)
    except UserError as error:
        raise UserError(
            f"the Inception network cannot be had: {error}. With a network, run the command again; without one, put the file "
            f"{published.name} at {path}, or name it with --inception FILE or ${VARIABLE}. Or {_INSTEAD}"
        ) from None
    return path, download.verify(path)


def _named(path: Path, how: str, published: _Published) -> tuple[Path, str]:
    file = path / published.name if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"{how}: no such file{f' ({published.name} in it)' if path.is_dir() else ''}; or {_INSTEAD}")
    return file, download.file_sha256(file)


def _address(mode: str) -> str:
    if mode == "legacy_pytorch":
        from cleanfid.inception_pytorch import FID_WEIGHTS_URL

        return str(FID_WEIGHTS_URL)
    from cleanfid.downloads_helper import inception_url

    return str(inception_url)


def _clean_fids_own(mode: str) -> Path:
    """Where clean-fid looks for the file, and puts it."""
    if mode == "legacy_pytorch":
        return Path(torch.hub.get_dir()) / "checkpoints" / _STATE.name
    return Path("./" if platform.system() == "Windows" else "/tmp") / _TORCHSCRIPT.name


def _is_ours(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()


def _check(path: Path, mode: str) -> None:
    load(path, mode, torch.device("cpu"))


def load(path: Path, mode: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network of that file: resized images (B, 3, H, W) in 0..255 to features (B, 2048), as in clean-fid.

    Raises:
        UserError: the file is no such network.
    """
    try:
        network = _load_state(path) if mode == "legacy_pytorch" else _load_torchscript(path, device)
    except Exception as error:  # on damaged content the readers raise nearly anything
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: not the Inception network of mode {mode}, {_published(mode).name} ({reason})") from None
    network = network.to(device).eval()
    if mode == "legacy_tensorflow":
        return lambda x: network(x, return_features=True).view(len(x), DIMENSIONS)

    def features(x: Tensor) -> Tensor:
        if mode == "legacy_pytorch":
            result: Tensor = network(x / 255)[0].squeeze(-1).squeeze(-1)
        else:
            result = network.layers.forward((x - 128) / 128).view(len(x), DIMENSIONS)
        return result

    return _channels_last(features) if device.type == "cpu" and _is_deep(network, mode) else features


def _is_deep(network: Any, mode: str) -> bool:
    """Whether it is made of convolutions, as Inception is (94 of them), and not a stand-in for it."""
    if mode == "legacy_pytorch":
        return True
    graph = network.layers.inlined_graph
    return sum(len(graph.findAllNodes(kind)) for kind in ("aten::conv2d", "aten::_convolution")) > 8


def _channels_last(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The network, given its images channels last, which nearly halves its time on a CPU; as they are, where it cannot."""

    def reordered(x: Tensor) -> Tensor:
        return network(x.contiguous(memory_format=torch.channels_last))

    try:
        with torch.inference_mode():
            reordered(torch.zeros(1, 3, _SIDE, _SIDE))
    except RuntimeError:  # a script may rely on the order of memory
        return network
    return reordered


def load_torchscript(path: Path, device: torch.device) -> Any:
    """The network of a TorchScript file, in evaluation mode."""
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # PyTorch's advice to authors of such files
        return torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]


def _load_torchscript(path: Path, device: torch.device) -> Any:
    network = load_torchscript(path, device)
    if not hasattr(network, "layers"):
        raise ValueError("it has no layers")
    return network


def _load_state(path: Path) -> Any:
    from cleanfid import inception_pytorch

    with warnings.catch_warnings(action="ignore"):  # advice of torchvision to clean-fid
        # The file is a pickle, and published only so: `weights_only` reads tensors from it and runs nothing.
        state = torch.load(path, map_location="cpu", weights_only=True)
        # clean-fid's network fetches its weights itself, and checks nothing: it gets those of the file that was checked.
        with mock.patch.object(inception_pytorch, "load_state_dict_from_url", return_value=state):
            return inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False)


def resize(images: Tensor, mode: str) -> Tensor:
    """(B, C, H, W) uint8 to what the network of a mode takes, float32 in 0..255; the pixels are clean-fid's, bit for bit.

    `clean` resizes with antialiasing (Parmar et al. 2022, arXiv 2104.11222), `legacy_pytorch` without, and the network of
    `legacy_tensorflow` does it itself.
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
