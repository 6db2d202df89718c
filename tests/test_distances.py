"""Distances against slow, independent references, and what is kept of images to take them."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from blurcli.core import dct2, idct2
from blurcli.data import ReadOptions, load_dataset
from blurcli.evaluate import array_batches, load_features, measure
from blurcli.evaluate.distances import (
    frechet_distance,
    kernel_distance,
    log_spectral_distance,
    manifold_radii,
    precision_recall,
)
from blurcli.evaluate.features import Features
from blurcli.evaluate.statistics import KEPT, RunningMoments, Statistics

PIXELS = load_features("pixels", "clean", torch.device("cpu"))


def random_moments(seed: int, dimensions: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dimensions, dimensions, dtype=torch.float64, generator=generator)
    return torch.randn(dimensions, dtype=torch.float64, generator=generator), root @ root.T


def statistics(images: np.ndarray, features: Features = PIXELS) -> Statistics:
    return measure(array_batches(images), len(images), features)


@pytest.fixture(scope="module")
def shapes() -> np.ndarray:
    return np.array(load_dataset("shapes", "train", (32, 32), 3, ReadOptions(shapes_count=1200)).images)


# Frechet


def test_frechet_distance_against_a_matrix_square_root() -> None:
    (m1, s1), (m2, s2) = random_moments(1), random_moments(2)
    root = scipy.linalg.sqrtm((s1 @ s2).numpy()).real
    expected = ((m1 - m2) ** 2).sum().item() + (s1 + s2).trace().item() - 2 * np.trace(root)
    assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(m2, s2, m1, s1) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_commuting_covariances() -> None:
    a, b = torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64), torch.tensor([9.0, 1.0, 0.0], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    assert frechet_distance(zero, a.diag(), zero + 2, b.diag()) == pytest.approx(12 + (1 - 3) ** 2 + (2 - 1) ** 2)


def test_a_distance_to_oneself_is_zero() -> None:
    mean, covariance = random_moments(3)
    assert frechet_distance(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-9)


# Kernel distance


def test_kernel_distance_of_a_few_points_term_by_term() -> None:
    """With no more points than a subset holds, every subset is all of them, and the estimate a sum that can be written out."""
    x, y = torch.randn(7, 3), torch.randn(9, 3)
    x_again = torch.cat([x, torch.randn(2, 3)])
    kernel = lambda a, b: (float(a @ b) / 3 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    within = sum(kernel(z[i], z[j]) for z in (x_again, y) for i, j in pairs) / len(pairs)
    between = sum(kernel(a, b) for a in x_again for b in y) / 81
    value, spread = kernel_distance(x_again, y)
    assert value == pytest.approx(within - 2 * between, rel=1e-5)
    assert spread == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_unbiased_where_the_biased_one_is_not() -> None:
    """Between sets of one distribution it is zero on average, however few they are."""
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([kernel_distance(*torch.randn(2, 12, 4, generator=generator))[0] for _ in range(60)])
    assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(60)
    assert float((values < 0).double().mean()) > 0.2
    shifted = [kernel_distance(torch.randn(50, 4, generator=generator) + 1, torch.randn(50, 4, generator=generator))[0]]
    assert shifted[0] > 1


# Precision and recall


def brute_force(ours: Tensor, reference: Tensor, neighbours: int) -> tuple[float, float]:
    def covered(points: Tensor, manifold: Tensor) -> float:
        hits = 0
        for point in points:
            for i, centre in enumerate(manifold):
                radius = sorted(float((centre - other).norm()) for j, other in enumerate(manifold) if j != i)[neighbours - 1]
                if float((point - centre).norm()) <= radius:
                    hits += 1
                    break
        return hits / len(points)

    return covered(ours, reference), covered(reference, ours)


def test_precision_and_recall_against_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, reference = torch.randn(40, 2, generator=generator) * 1.3 + 100, torch.randn(50, 2, generator=generator) + 100
    for a, b in ((ours, reference), (reference, ours)):
        expected = brute_force(a.double(), b.double(), 3)
        assert precision_recall(a, manifold_radii(a), b, manifold_radii(b)) == pytest.approx(expected)
        assert min(expected) < 1


def test_precision_and_recall_tell_quality_from_variety(shapes: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 3, 32, 32), np.uint8)
    sets = {"real": shapes[:600], "half": shapes[600:900].repeat(2, axis=0), "noise": noise}
    kept = {name: statistics(images) for name, images in sets.items()}

    def against_real(name: str) -> tuple[float, float]:
        ours, real = kept[name], kept["real"]
        return precision_recall(*(part for part in (ours.features, ours.radii, real.features, real.radii) if part is not None))

    assert against_real("real") == (1, 1)
    assert against_real("noise")[0] < 0.05
    precision, recall = against_real("half")
    assert precision > recall + 0.2  # real images, but each of them twice: two of the three neighbours lie close by


# Spectrum


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """By the heat equation, as the model's own blur, with `sigma` in pixels."""
    frequency = (math.pi * torch.arange(32) / 32) ** 2
    decay = torch.exp(-(frequency[:, None] + frequency) * sigma**2 / 2)
    u = dct2(torch.from_numpy(images).float() / 127.5 - 1)
    return ((idct2(u * decay) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def test_log_spectral_distance_orders_blur(shapes: np.ndarray) -> None:
    reference = statistics(shapes[:600]).power
    powers = [statistics(blurred(shapes[600:], sigma)).power for sigma in (0, 0.5, 1, 2)]
    assert reference is not None
    distances = [log_spectral_distance(power, reference) for power in powers if power is not None]
    assert len(distances) == 4
    assert distances == sorted(distances)
    assert distances[0] < 0.1 < distances[1] / 2


def test_log_spectral_distance_is_the_logarithm_of_the_excess(shapes: np.ndarray) -> None:
    power = statistics(shapes[:100]).power
    assert power is not None
    assert log_spectral_distance(power * 1.1, power) == pytest.approx(math.log(1.1))
    assert log_spectral_distance(power, power) == 0
    assert math.isfinite(log_spectral_distance(torch.zeros_like(power), power))


# What is kept


def test_moments_do_not_depend_on_the_batches() -> None:
    features = 1e4 + torch.randn(500, 5, dtype=torch.float64)
    expected = features.mean(0), torch.from_numpy(np.cov(features.numpy(), rowvar=False))
    for size in (1, 7, 500):
        moments = RunningMoments()
        for part in torch.split(features, size):
            moments.add(part)
        assert moments.count == 500
        for ours, theirs in zip(moments.finish(), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_covariance_needs_two_images() -> None:
    moments = RunningMoments()
    moments.add(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="at least two"):
        moments.finish()


def test_statistics_do_not_depend_on_the_batches(shapes: np.ndarray) -> None:
    whole = statistics(shapes[:300])
    for size in (1, 50, 300):
        parts = measure(torch.split(torch.from_numpy(shapes[:300]), size), 300, PIXELS)
        assert all(
            torch.equal(getattr(parts, name), getattr(whole, name)) for name in ("mean", "covariance", "features", "power")
        )


def test_statistics_survive_the_disk(shapes: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("statistics") / "s.npz"
    assert Statistics.load(path) is None
    kept = statistics(shapes[:50])
    kept.save(path)
    again = Statistics.load(path)
    assert again is not None
    assert again.count == 50
    assert all(torch.equal(getattr(again, name), getattr(kept, name)) for name in ("mean", "covariance", "features", "power"))
    path.write_bytes(path.read_bytes()[:-100])
    assert Statistics.load(path) is None


def test_statistics_that_do_not_fit_are_measured_anew(tmp_path: Path) -> None:
    """A cached file of sizes that disagree, or with a number that is none, is as good as no file."""
    good = {"mean": np.zeros(3), "covariance": np.eye(3), "count": np.int64(9)}
    for change in ({}, {"mean": np.zeros(2)}, {"mean": np.full(3, np.nan)}, {"features": np.zeros((4, 2))}):
        np.savez(tmp_path / "s.npz", **good | change)
        assert (Statistics.load(tmp_path / "s.npz") is None) == bool(change)


def test_kernel_distance_of_features_far_from_zero() -> None:
    """A common offset enters the kernel, and must not cost the differences their digits."""
    x, y = torch.randn(200, 50, dtype=torch.float64) + 1000, 1.5 * torch.randn(200, 50, dtype=torch.float64) + 1000
    exact = kernel_distance(x, y)[0]
    assert kernel_distance(x.float(), y.float())[0] == pytest.approx(exact, rel=1e-4)


def test_power_is_that_of_the_images(shapes: np.ndarray) -> None:
    expected = dct2(torch.from_numpy(shapes[:70]).double() / 127.5 - 1).square().mean((0, 1))
    power = statistics(shapes[:70]).power
    assert power is not None
    torch.testing.assert_close(power, expected, rtol=1e-4, atol=1e-6)  # measured in float32


MEASURE_MEMORY = """
import torch
from pathlib import Path
from blurcli.evaluate import Features, measure

def peak(count):
    batches = (torch.zeros(100, 3, 8, 8, dtype=torch.uint8) for _ in range(count // 100))
    measure(batches, count, Features(lambda x: x, lambda x: torch.randn(len(x), 512).double(), "noise", "noise"))
    # Not getrusage's figure: that includes the process that started this one.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])

peak(10_000)  # what the allocator keeps
print(peak(10_000), peak(30_000))
"""


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE_MEMORY], capture_output=True, text=True, check=True, timeout=300)
    few, many = map(int, done.stdout.split())  # KiB; the fewer are as many as are kept in any case
    assert many - few < 20_000 * 512 * 4 / 1024 / 2  # half of what the others would take


def test_kept_features_are_evenly_spaced() -> None:
    numbers = torch.arange(2 * KEPT, dtype=torch.float64)
    features = Features(
        lambda x: x, lambda x: torch.stack([x[:, 0, 0, 0].double() * 256 + x[:, 1, 0, 0]] * 2, 1), "number", "number"
    )
    images = torch.stack([numbers // 256, numbers % 256, numbers * 0], 1).to(torch.uint8)[:, :, None, None].expand(-1, -1, 2, 2)
    kept = measure(torch.split(images, 999), 2 * KEPT, features).features
    assert kept is not None
    assert kept[:, 0].tolist() == np.linspace(0, 2 * KEPT - 1, KEPT).astype(int).tolist()
