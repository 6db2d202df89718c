"""Measure samplers: the tables of docs/samplers.md.

python docs/samplers.py exact                               problems with a known solution; minutes on a CPU
python docs/samplers.py trained IMAGES WEIGHTS...           trained models, by their scores against IMAGES
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from blurcli.core import BlurringDiffusion, dct2, idct2, sample
from blurcli.core.plans import make_plan
from blurcli.core.samplers import SAMPLERS, Sampler, State, Step
from blurcli.core.samplers.base import Estimate
from blurcli.core.sampling import sample_by_plan
from blurcli.core.whitened import WhitenedSpace
from blurcli.model.pipeline import Pipeline, to_uint8
from blurcli.model.weights import load_weights

STEPS = (5, 10, 20, 35, 50)
COMPARED = ("ddim", "dpmpp-2m", "euler", "ab2", "abm")
IMAGES = 24

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Gddim(Sampler):
    """The multistep exponential integrator of gDDIM (Zhang, Tao and Chen 2023, arXiv 2206.05564, section 4), for comparison.

    With `rho = sigma / alpha` per frequency, the probability-flow ODE is `d(u / alpha) = eps drho`. A step takes eps for the
    polynomial in t through the last `order + 1` estimates. Times are uniform in the root of t, as in its authors' code.

    Attributes:
        order: of the polynomial: 0 is DDIM.
        largest: noise over signal at the start, where the state is standard normal noise; 80 in its authors' code.
    """

    name = "gddim"
    order: int = 2
    largest: float = 80.0

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """None that `Pipeline.sampling` could set."""
        return ()

    def times(self, space: WhitenedSpace | None, steps: int, start: float) -> list[float]:
        """Uniform in the root of t, from the time of the largest noise."""
        first = BlurringDiffusion(1).time_at(torch.tensor(-2 * math.log(self.largest), dtype=torch.float64)).item()
        return [first * (1 - i / steps) ** 2 for i in range(steps + 1)]

    def step(
        self, geometry: BlurringDiffusion, step: Step, state: State, estimate: Estimate, noise: Callable[[], Tensor]
    ) -> State:
        """The memory is the list of (t, eps) of the steps before, the newest first."""
        alpha_t, alpha_s = geometry.alpha(step.at_t), geometry.alpha(step.at_s)
        eps = (state.value - alpha_t * estimate(state.value, step.t)) / geometry.sigma(step.at_t)
        known = [(step.t, eps), *(state.memory or [])][: self.order + 1]
        edges = torch.linspace(step.t, step.s, 2001, dtype=torch.float64)
        rho = geometry.sigma(edges) / geometry.alpha(edges)
        passed, middle = rho.diff(dim=0), (edges[1:] + edges[:-1]) / 2
        moved = torch.zeros_like(eps)
        for t, value in known:
            weight = torch.ones_like(middle)
            for other, _ in known:
                if other != t:
                    weight = weight * (middle - other) / (t - other)
            moved += value * torch.tensordot(weight, passed, 1)
        return State(alpha_s * (state.value / alpha_t + moved), known)


class FirstOrderGddim(Gddim):
    """`Gddim` with a line through the last two estimates."""

    name = "gddim-1"

    def __init__(self) -> None:
        super().__init__(order=1)


def power_law(height: int, width: int, exponent: float) -> Tensor:
    """A power-law spectrum that falls as 1 / f^(2 exponent), (H, W)."""
    rows, columns = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    return 60 / (1 + rows[:, None] ** 2 + columns**2) ** exponent


def mixture(blur: float, spectrum: Tensor, count: int, share: float) -> tuple:
    """Process, exact denoiser and spectrum of a mixture of `count` Gaussians with `share` of the power in their means."""
    generator = torch.Generator().manual_seed(count)
    process = BlurringDiffusion(tuple(spectrum.shape), blur)
    means = torch.randn(count, *spectrum.shape, dtype=torch.float64, generator=generator) * (share * spectrum).sqrt()
    means = means - means.mean(0)
    variance = (1 - share) * spectrum

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.alpha(t[:1]), process.sigma(t[:1])
        total = alpha**2 * variance + sigma**2
        offset = dct2(z) - alpha * means
        weight = torch.softmax(-(offset**2 / total).sum((-1, -2), keepdim=True) / 2, dim=1)
        return idct2((weight * (means + alpha * variance / total * offset)).sum(1, keepdim=True))

    return process, denoise, variance + (means**2).mean(0)


@app.command()
def exact() -> None:
    """Print one table per problem: the squared error against 1,000 steps over the image's energy, median over images."""
    for size, exponent, count, share in (((32, 32), 1.0, 6, 0.5), ((32, 48), 1.0, 12, 0.3), ((32, 32), 1.5, 3, 0.9)):
        for blur in (20.0, 5.0, 0.0):
            process, denoiser, spectrum = mixture(blur, power_law(*size, exponent), count, share)
            z = torch.randn(IMAGES, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            exact = sample(denoiser, process, z, 1000, "ab2", spectrum)
            print(f"\n{size[0]}x{size[1]}, blur {blur:g}, {count} components, {share:.0%} of the power in their means\n")
            names = (*COMPARED, *(f"gddim, order {order}" for order in (1, 2)))
            print("| steps |", " | ".join(names), "|\n|" + "---|" * (len(names) + 1))
            for steps in STEPS:
                errors = []
                results = [sample(denoiser, process, z, steps, sampler, spectrum) for sampler in COMPARED]
                plans = (make_plan(Gddim(order), process, steps, z.device) for order in (1, 2))
                results += [sample_by_plan(denoiser, plan, z) for plan in plans]
                for result in results:
                    difference = result - exact
                    errors.append((difference.square().sum((1, 2, 3)) / exact.square().sum((1, 2, 3))).median().item())
                print(f"| {steps} |", " | ".join(f"{error:.1e}" for error in errors), "|", flush=True)


def score(pipeline: Pipeline, sampler: str, steps: int, count: int, seed: int, images: str, features: str) -> dict[str, Any]:
    """The scores of images 0 to count - 1 of a seed."""
    batches = pipeline.generate(count, seed, pipeline.sampling(sampler, steps))
    arrays = [to_uint8(batch).permute(0, 2, 3, 1).numpy() for batch in batches]
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.npz"
        np.savez(samples, np.concatenate(arrays))
        command = [sys.executable, "-m", "blurcli", "fid", "--samples", str(samples), "--data", images, "--features", features]
        done = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE, text=True)
    scores: dict[str, Any] = json.loads(done.stdout)
    return scores


@app.command()
def trained(
    images: str,
    weights: list[Path],
    features: Annotated[str, typer.Option(help="As for blurdiff fid.")] = "pixels",
    steps: Annotated[str, typer.Option(help="Network calls, separated by commas.")] = "5,10,20,50",
    n: Annotated[int, typer.Option(help="Images per score.")] = 2000,
) -> None:
    """Print FD by network calls: mean and standard deviation over the weights files, each with its own seed of samples."""
    SAMPLERS.update({method.name: method for method in (Gddim, FirstOrderGddim)})
    pipelines = [Pipeline.from_weights(load_weights(path), torch.device("cpu")) for path in weights]
    names = ("abm", "gddim-1", "gddim")
    print("| calls |", " | ".join(names), "|\n|" + "---|" * (len(names) + 1))
    for count in map(int, steps.split(",")):
        cells = []
        for name in names:
            found = [score(one, name, count, n, seed, images, features)["fd"] for seed, one in enumerate(pipelines)]
            spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.3f}{spread}")
        print(f"| {count} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    app()
