"""Scores: images -> features -> Frechet distance. In Inception's features it is the FID; in any others an FD."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import blurcli
from blurcli import files
from blurcli.data import Dataset
from blurcli.data.dataset import cache_folder
from blurcli.errors import UsageError, UserError

Images = NDArray[np.uint8]

_BATCH = 64
_POOLED = 8  # pixels a side of the `pixels` features


@dataclass(frozen=True)
class Features:
    """A way to turn images into vectors.

    Attributes:
        extract: (B, C, H, W) uint8 on the CPU to (B, D) float64.
        key: names the network and its treatment of the images exactly; part of a score's protocol.
        metric: "fid" for Inception's features, "fd" for all others.
    """

    extract: Callable[[Tensor], Tensor]
    key: str
    metric: str


@dataclass
class Moments:
    """Mean and covariance of features, from running sums in float64: memory does not grow with the number of images.

    The first batch's mean is taken off before squaring, so that a large common offset costs no digits.
    """

    count: int = 0
    _shift: Tensor | None = None
    _sum: Tensor | None = None
    _outer: Tensor | None = None

    def add(self, features: Tensor) -> None:
        """Take in features (B, D)."""
        features = features.double()
        if self._shift is None or self._sum is None or self._outer is None:
            self._shift = features.mean(0)
            self._sum = torch.zeros_like(self._shift)
            self._outer = torch.zeros(len(self._shift), len(self._shift), dtype=torch.float64)
        centred = features - self._shift
        self.count += len(features)
        self._sum += centred.sum(0)
        self._outer += centred.T @ centred

    def finish(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and unbiased covariance (D, D); ValueError below two images."""
        if self._shift is None or self._sum is None or self._outer is None or self.count < 2:
            raise ValueError("a covariance needs at least two images")
        offset = self._sum / self.count
        covariance = (self._outer - self.count * torch.outer(offset, offset)) / (self.count - 1)
        return self._shift + offset, covariance


def frechet_distance(mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor) -> float:
    """Squared Frechet distance of two Gaussians (Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500), float64.

    `|m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2))`, where `tr sqrt(S1 S2)` is the sum of the square roots of the eigenvalues of
    `A S2 A`, `A = sqrt(S1)`: symmetric, so no matrix square root of a general matrix is needed.
    """
    values, vectors = torch.linalg.eigh(covariance_1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance_2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + covariance_1.trace() + covariance_2.trace() - 2 * cross
    return max(0.0, float(distance))


def load_features(name: str, mode: str, device: torch.device) -> Features:
    """The features of that name.

    Args:
        name: `inception` (through clean-fid), `pixels` (each image averaged to 8x8, values in [-1, 1], flattened), or the
            path of a TorchScript file that maps (B, 3, H, W) float32 in 0..255 to (B, D). Such a file is code: it is run.
        mode: clean-fid's mode, for `inception`: `clean`, `legacy_tensorflow` or `legacy_pytorch`.
        device: where networks run.

    Raises:
        UsageError: no such file.
        UserError: the file is no TorchScript, or Inception cannot be had.
    """
    if name == "pixels":
        return Features(_pool, "pixels-8x8", "fd")
    if name == "inception":
        return _inception(mode, device)
    return _torchscript(Path(name), device)


def _pool(images: Tensor) -> Tensor:
    x = images.double() / 127.5 - 1
    return F.adaptive_avg_pool2d(x, _POOLED).flatten(1)


def _torchscript(path: Path, device: torch.device) -> Features:
    if not path.is_file():
        raise UsageError(f"--features {path}: no such file; give a TorchScript file, or: pixels, inception")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # PyTorch's advice to authors of such files
            network = torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--features {path}: not a readable TorchScript file ({str(error).splitlines()[0]})") from None

    def extract(images: Tensor) -> Tensor:
        try:
            features: Tensor = network(_as_colour(images).to(device, torch.float32))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"--features {path}: fails on images of {tuple(images.shape[1:])} ({reason})") from None
        if features.ndim != 2:
            raise UserError(f"--features {path}: gives features of shape {tuple(features.shape)}; (B, D) is needed")
        return features.double().cpu()

    return Features(extract, f"torchscript-{digest}", "fd")


def _inception(mode: str, device: torch.device) -> Features:
    from cleanfid.features import build_feature_extractor
    from cleanfid.resize import build_resizer

    try:
        network = build_feature_extractor(mode, device, use_dataparallel=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the Inception network of clean-fid ({mode}) cannot be had: {error}. It is downloaded on first use, which needs "
            "a network; without one, score with --features pixels, or --features FILE (TorchScript): an FD, not an FID"
        ) from None
    resize = build_resizer(mode)

    def extract(images: Tensor) -> Tensor:
        # clean-fid resizes one (H, W, 3) array at a time, and this must be its own arithmetic to the last bit.
        sized = np.stack([resize(image) for image in _as_colour(images).permute(0, 2, 3, 1).numpy()])
        features: Tensor = network(torch.from_numpy(sized).permute(0, 3, 1, 2).to(device, torch.float32))
        return features.double().cpu()

    return Features(extract, f"inception-{mode}", "fid")


def _as_colour(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)


@torch.inference_mode()
def moments_of(batches: Iterable[Tensor], features: Features, on_batch: Callable[[int], None]) -> Moments:
    """The moments of the features of uint8 batches (B, C, H, W); `on_batch` gets the number of images so far."""
    moments = Moments()
    for batch in _rebatched(batches):
        moments.add(features.extract(batch))
        on_batch(moments.count)
    return moments


def _rebatched(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same images, `_BATCH` at a time, however they come: the last digits of a sum depend on how it is grouped."""
    waiting = torch.empty(0)
    for batch in batches:
        waiting = torch.cat([waiting, batch]) if len(waiting) else batch
        *full, waiting = torch.split(waiting, _BATCH)
        yield from full
    yield waiting


def array_batches(images: Images) -> Iterable[Tensor]:
    """An array (N, C, H, W) uint8 in batches."""
    for first in range(0, len(images), _BATCH):
        yield torch.from_numpy(np.array(images[first : first + _BATCH]))


def reference_moments(dataset: Dataset, features: Features, on_batch: Callable[[int], None]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a dataset's features, kept in the cache under the hash of (images, features)."""
    key = hashlib.blake2b(f"{dataset.fingerprint}/{features.key}".encode(), digest_size=16).hexdigest()
    path = cache_folder() / "moments" / f"{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as cached:
            return torch.from_numpy(cached["mean"]), torch.from_numpy(cached["covariance"])
    except (OSError, ValueError, KeyError, EOFError):
        pass  # not there yet, or damaged: measured anew
    mean, covariance = moments_of(array_batches(dataset.images), features, on_batch).finish()
    with files.replacing(path) as temporary:
        np.savez(temporary, mean=mean.numpy(), covariance=covariance.numpy())
    return mean, covariance


@dataclass(frozen=True)
class Judge:
    """A measure and a reference: what turns images into a line of evaluations.jsonl.

    Attributes:
        features: what the images are seen by.
        dataset: the reference images.
        moments: mean and covariance of the reference's features.
    """

    features: Features
    dataset: Dataset
    moments: tuple[Tensor, Tensor]

    @property
    def protocol(self) -> dict[str, Any]:
        """What a score must name of the measure and the reference, to be compared with another."""
        return {
            "reference": self.dataset.name,
            "reference_images": len(self.dataset.images),
            "reference_fingerprint": self.dataset.fingerprint,
            "features": self.features.key,
        }

    def score(self, batches: Iterable[Tensor], protocol: dict[str, Any], on_batch: Callable[[int], None]) -> dict[str, Any]:
        """The score of uint8 batches (B, C, H, W), and all that must be known of it; `protocol` says how they were made."""
        started = time.perf_counter()
        moments = moments_of(batches, self.features, on_batch)
        distance = frechet_distance(*moments.finish(), *self.moments)
        return {
            self.features.metric: distance,
            "n": moments.count,
            **protocol,
            **self.protocol,
            "seconds": round(time.perf_counter() - started, 1),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **versions(),
        }


def versions() -> dict[str, str]:
    """Versions of what a score depends on."""
    return {"blurdiff": blurcli.__version__, "torch": torch.__version__}


def record(path: Path, score: dict[str, Any]) -> None:
    """Append a score with its whole protocol to evaluations.jsonl, as one line in one write."""
    with files.explained(path), path.open("a+b") as file:
        # A line that a crash cut short must not take this one with it.
        file.seek(max(0, file.tell() - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + json.dumps(score).encode() + b"\n")


def recorded(path: Path) -> list[dict[str, Any]]:
    """The scores in an evaluations.jsonl, oldest first; none when there is no such file. Lines cut short are left out."""
    if not path.exists():
        return []
    scores = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from None
    for line in lines:
        try:
            score = json.loads(line)
        except ValueError:
            continue
        if isinstance(score, dict):
            scores.append(score)
    return scores
