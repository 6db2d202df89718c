"""Ways to turn images into vectors: Inception as clean-fid feeds it, averaged pixels, or any network from a file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blurcli.download import Progress, file_sha256
from blurcli.errors import UsageError, UserError
from blurcli.evaluate import inception

_POOLED = 8  # pixels a side of the `pixels` features


@dataclass(frozen=True)
class Features:
    """A way to turn images into vectors.

    Attributes:
        prepare: (B, C, H, W) uint8 on the CPU to what `embed` takes; called from several threads.
        embed: that to (B, D) float64 on the CPU.
        name: how a message calls them.
        key: names the network and its treatment of the images exactly; part of a score's protocol.
        metric: "fid" for Inception's features, "fd" for all others.
        kernel_metric: "kid" for Inception's features, "kd" for all others.
        mode: clean-fid's mode, for Inception; else None.
        sha256: of the network's file, in hex; None without one.
        warning: what a reader of the score must know, or an empty string.
    """

    prepare: Callable[[Tensor], Tensor]
    embed: Callable[[Tensor], Tensor]
    name: str
    key: str
    metric: str = "fd"
    kernel_metric: str = "kd"
    mode: str | None = None
    sha256: str | None = None
    warning: str = ""

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 to (B, D) float64."""
        return self.embed(self.prepare(images))


def load_features(
    name: str,
    mode: str,
    device: torch.device,
    inception_file: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Features:
    """The features of that name.

    Args:
        name: `inception`, `pixels` (each image averaged to 8x8, values in [-1, 1], flattened), or the path of a network that
            maps (B, 3, H, W) float32 in 0..255 to (B, D): a TorchScript file, or one of torch.export with a dynamic batch.
            Such a file is code: it is run.
        mode: clean-fid's mode, for `inception`: `clean`, `legacy_tensorflow` or `legacy_pytorch`.
        device: where networks run.
        inception_file: where `inception` lies, or a folder that holds it; by default it is looked for, and downloaded.
        progress: of that download, in bytes.

    Raises:
        UsageError: no such file.
        UserError: the file is no such network, or Inception cannot be had.
    """
    if name != "inception" and inception_file is not None:
        raise UsageError(f"--inception {inception_file}: is for --features inception, not for {name}")
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
        warning = f"{path}: is not the Inception network that was published: scores by it do not compare with others"
    return Features(
        lambda images: _as_colour(inception.resize(images, mode)),
        lambda x: network(x.to(device)).double().cpu(),
        str(path),
        f"inception-{mode}-{digest[:16]}",
        "fid",
        "kid",
        mode,
        digest,
        warning,
    )


def _network_file(path: Path, device: torch.device) -> Features:
    if not path.is_file():
        raise UsageError(f"--features {path}: no such file; give a TorchScript or torch.export file, or: pixels, inception")
    kind = "export" if _is_exported(path) else "torchscript"
    try:
        network = _load_exported(path, device) if kind == "export" else inception.load_torchscript(path, device)
    except Exception as error:  # on damaged content the readers raise nearly anything
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"--features {path}: not a readable TorchScript or torch.export file ({reason})") from None

    def embed(x: Tensor) -> Tensor:
        try:
            features = network(x.to(device))
        except Exception as error:  # it is anybody's code
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            hint = "; torch.export needs dynamic_shapes for the batch" if kind == "export" else ""
            raise UserError(f"--features {path}: fails on a batch of {tuple(x.shape)} ({reason}){hint}") from None
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise UserError(f"--features {path}: gives {_kind(features)}; one floating-point tensor is needed")
        if features.ndim != 2 or len(features) != len(x) or not features.shape[1]:
            raise UserError(f"--features {path}: gives features of shape {tuple(features.shape)}; ({len(x)}, D) is needed")
        return features.double().cpu()

    digest = file_sha256(path)
    return Features(lambda images: _as_colour(images).float(), embed, str(path), f"{kind}-{digest[:16]}", sha256=digest)


def _kind(value: object) -> str:
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


def _as_colour(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)
