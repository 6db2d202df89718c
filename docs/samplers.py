"""Measure samplers on problems with a known solution: the tables of docs/samplers.md.

    python docs/samplers.py

Takes minutes on a CPU.
"""

import torch
from torch import Tensor

from blurcli.core import BlurringDiffusion, dct2, idct2, sample

STEPS = (5, 10, 20, 35, 50)
SAMPLERS = ("ddim", "dpmpp-2m", "euler", "ab2", "abm")
IMAGES = 24


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


def main() -> None:
    """Print one table per problem: the squared error against 1,000 steps over the image's energy, median over images."""
    for size, exponent, count, share in (((32, 32), 1.0, 6, 0.5), ((32, 48), 1.0, 12, 0.3), ((32, 32), 1.5, 3, 0.9)):
        for blur in (20.0, 5.0, 0.0):
            process, denoiser, spectrum = mixture(blur, power_law(*size, exponent), count, share)
            z = torch.randn(IMAGES, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            exact = sample(denoiser, process, z, 1000, "ab2", spectrum)
            print(f"\n{size[0]}x{size[1]}, blur {blur:g}, {count} components, {share:.0%} of the power in their means\n")
            print("| steps |", " | ".join(SAMPLERS), "|\n|" + "---|" * (len(SAMPLERS) + 1))
            for steps in STEPS:
                errors = []
                for sampler in SAMPLERS:
                    difference = sample(denoiser, process, z, steps, sampler, spectrum) - exact
                    errors.append((difference.square().sum((1, 2, 3)) / exact.square().sum((1, 2, 3))).median().item())
                print(f"| {steps} |", " | ".join(f"{error:.1e}" for error in errors), "|", flush=True)


if __name__ == "__main__":
    main()
