"""What counts how much in training: weights of the noise loss, per frequency and time.

All are functions of how much of the signal is left: its share `s = sin(phi)^2 = alpha^2 V / (alpha^2 V + sigma^2)` in the power
of a frequency, V being the variance of the data there; the signal-to-noise ratio is `s / (1 - s)`.

| name | weight | |
|---|---|---|
| `paper` | 1 | Hoogeboom and Salimans 2023, after Ho et al. 2020 |
| `balanced` | 1 / (s / 4 + 3 / 4 of its mean over frequencies + 0.1) | every time counts, and at each the faint frequencies |
| `min-snr` | min(1, 5 / snr) | Hang et al. 2023, arXiv 2303.09556, less weight on what is nearly clean |
| `sigmoid` | 1 - s = sigmoid(-log snr) | Kingma and Gao 2023, arXiv 2303.00848 |
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blurcli.core.process import Process

_MIN_SNR_GAMMA = 5.0


def signal_share(process: Process, variance: Tensor, t: Tensor) -> Tensor:
    """The share s of the signal in the state's power, (B, 1 or C, H, W) float64 in [0, 1], at times `t` (B,).

    Args:
        process: the diffusion process.
        variance: V of the data per DCT frequency, (C, H, W) or (H, W).
        t: times (B,) in [0, 1].
    """
    signal = process.alpha(t.double()) ** 2 * variance
    return signal / (signal + process.sigma(t.double()) ** 2)


def _balanced(share: Tensor) -> Tensor:
    # Late times, when few frequencies are alive, count for nearly nothing in the paper's loss, though they decide the
    # coarse structure: the mean brings them back, and s itself what is just coming out of the noise. The constant bounds
    # the weight of the very last times. Found by trial: docs/family.md.
    return 1 / (share / 4 + 3 / 4 * share.mean((1, 2, 3), keepdim=True) + 0.1)


def _min_snr(share: Tensor) -> Tensor:
    return (_MIN_SNR_GAMMA * (1 - share) / share.clamp(min=torch.finfo(share.dtype).tiny)).clamp(max=1)


LOSS_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "paper": torch.ones_like,
    "balanced": _balanced,
    "min-snr": _min_snr,
    "sigmoid": lambda share: 1 - share,
}
