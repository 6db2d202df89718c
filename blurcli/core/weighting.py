"""Loss weights per frequency and time: a registry. Imports no torch, so that a preset can be checked without it.

Each weight is a function of the signal's share `s = sin(phi)^2 = alpha^2 V / (alpha^2 V + sigma^2)` in the power of a
frequency, with the variance V of the data; the signal-to-noise ratio is `s / (1 - s)`.

| name | weight | source |
|---|---|---|
| `paper` | 1 | Hoogeboom and Salimans 2023, after Ho et al. 2020 |
| `balanced` | 1 / (s / 4 + 3 / 4 of its mean over frequencies + 0.1) | docs/family.md: more for faint frequencies |
| `min-snr` | min(1, 5 / snr) | Hang et al. 2023, arXiv 2303.09556: less weight on nearly clean frequencies |
| `sigmoid` | 1 - s = sigmoid(-log snr) | Kingma and Gao 2023, arXiv 2303.00848 |
| `consistency` | snr^(-1/4), over its mean weighted by s | docs/distilling.md: for consistency models |

To add a weight, enter it in `LOSS_WEIGHTS`: a function of s, (B, C, H, W) float64, or None for 1 everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from blurcli.core.process import Process

_MIN_SNR_GAMMA = 5.0
_CONSISTENCY_POWER = 0.25
_TINY = sys.float_info.min


def signal_share(process: Process, variance: Tensor, t: Tensor) -> Tensor:
    """The share s of the signal in the state's power, (B, 1 or C, H, W) float64 in [0, 1].

    Args:
        process: the diffusion process.
        variance: V of the data per DCT frequency, (C, H, W) or (H, W).
        t: times (B,) in [0, 1].
    """
    signal = process.alpha(t.double()) ** 2 * variance
    return signal / (signal + process.sigma(t.double()) ** 2)


def _balanced(share: Tensor) -> Tensor:
    # In the paper's loss late times, when few frequencies have signal, have nearly no weight, although they decide the coarse
    # structure. Dividing by the mean restores their weight, dividing by s that of the frequencies that emerge from the noise.
    # The constant bounds the weight of the very last times.
    return 1 / (share / 4 + 3 / 4 * share.mean((1, 2, 3), keepdim=True) + 0.1)


def _min_snr(share: Tensor) -> Tensor:
    return (_MIN_SNR_GAMMA * (1 - share) / share.clamp(min=_TINY)).clamp(max=1)


def _consistency(share: Tensor) -> Tensor:
    # The losses multiply their weight by s. Every time has the same total weight, because sampling starts at t = 1, where
    # training has little to gain. The exponent is measured: a larger one sharpens a single step, and lets coarse structure
    # drift over several.
    share = share.clamp(min=_TINY)
    falling = ((1 - share) / share) ** _CONSISTENCY_POWER
    return falling / (share * falling).mean((1, 2, 3), keepdim=True)


LOSS_WEIGHTS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "balanced": _balanced,
    "paper": None,
    "min-snr": _min_snr,
    "sigmoid": lambda share: 1 - share,
    "consistency": _consistency,
}
