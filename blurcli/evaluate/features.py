"""Feature extractors: Inception as in clean-fid, averaged pixels, or any network from a file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blurcli.base.downloads import Progress, file_sha256
from blurcli.base.errors import OptionError, UsageError, UserError, option
from blurcli.evaluate import inception

_POOLED = 8  # pixels per side of the `pixels` features


@dataclass(frozen=True)
class Features:
    """A feature extractor: images to vectors.

    Attributes:
        prepare: images (B, C, H, W) uint8 on the CPU to the input of `embed`; called from several threads.
        embed: prepared images to features (B, D) float64 on the CPU.
        name: its name in messages.
        key: identifier of the network and its preprocessing, part of a score's protocol.
        mode: clean-fid's mode for Inception; None for other features.
        sha256: SHA-256 of the network's file, in hex; None without a file.
        warning: a warning for readers of the score, or an empty string.
    """

    prepare: Callable[[Tensor], Tensor]
    embed: Callable[[Tensor], Tensor]
    name: str
    key: str
    mode: str | None = None
    sha256: str | None = None
    warning: str = ""

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) uint8 to features (B, D) float64."""
        return self.embed(self.prepare(images))


def load_features(
    name: str,
    mode: str,
    device: torch.device,
    inception_file: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Features:
    """A feature extractor by name.

    Args:
        name: `inception`, `pixels` (each image averaged to 8x8, values in [-1, 1], flattened), or the path of a network that
            maps (B, 3, H, W) float32 in 0..255 to (B, D): a TorchScript file, or a torch.export file with a dynamic batch.
            Such a file is code, and is executed.
        mode: clean-fid's mode for `inception`: `clean`, `legacy_tensorflow` or `legacy_pytorch`.
        device: where networks run.
        inception_file: Inception's file, or its folder; None to search for it, and to download it if it is missing.
        progress: receives the bytes of that download.

    Raises:
        UsageError: the file is missing.
        UserError: the file is not such a network, or Inception cannot be downloaded.
    """
    if name != "inception" and inception_file is not None:
        raise OptionError("inception", inception_file, f"is for {option('features')} inception, not {name}; leave it out")
    if name == "pixels":
        return Features(_pool, lambda x: x, name, f"pixels-{_POOLED}x{_POOLED}")
    if name == "inception":
        return _inception(mode, device, inception_file, progress)
    return _network_file(Path(name), device)


def _pool(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images.double() / 127.5 - 1, _POOLED).flatten(1)


def _inception(mode: str, device: torch.device, given: Path | None, progress: Progress) -> Features:
    path, digest = inception.locate(mode, given, progress)
    network = inception.load(path, mode, device)
    warning = ""
    if not inception.is_published(mode, digest):
        warning = f"{path}: is not the published Inception network: its scores are not comparable with published ones"
    return Features(
        lambda images: _as_rgb(inception.resize(images, mode)),
        lambda x: network(x.to(device)).cpu().double(),
        str(path),
        f"inception-{mode}-{digest[:16]}",
        mode,
        digest,
        warning,
    )


def _network_file(path: Path, device: torch.device) -> Features:
    if not path.is_file():
        raise UsageError(f"{option('features')} {path}: no such file; use a TorchScript or torch.export file, or pixels")
    exported = _is_exported(path)
    try:
        network = _load_exported(path, device) if exported else inception.load_torchscript(path, device)
    except Exception as error:  # damaged content raises nearly any type
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{option('features')} {path}: not a readable TorchScript or torch.export file ({reason})") from None

    def embed(x: Tensor) -> Tensor:
        try:
            features = network(x.to(device))
        except Exception as error:  # the network is the user's code
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            hint = "; torch.export needs dynamic_shapes for the batch" if exported else ""
            raise UserError(f"{option('features')} {path}: fails on a batch of {tuple(x.shape)} ({reason}){hint}") from None
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise UserError(f"{option('features')} {path}: returns {_type_name(features)} instead of one floating-point tensor")
        if features.ndim != 2 or len(features) != len(x) or not features.shape[1]:
            shape = tuple(features.shape)
            raise UserError(f"{option('features')} {path}: returns features of shape {shape} instead of ({len(x)}, D)")
        return features.cpu().double()

    digest = file_sha256(path)
    return Features(
        lambda images: _as_rgb(images).float(),
        embed,
        str(path),
        f"{'export' if exported else 'torchscript'}-{digest[:16]}",
        sha256=digest,
    )


def _type_name(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _is_exported(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("archive_format") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _load_exported(path: Path, device: torch.device) -> Any:
    from torch.export import load
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(load(path), device).module()


def _as_rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)
