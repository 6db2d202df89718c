"""Where a network errs while it trains: its loss by time and frequency band, and that of its moving average."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from blurcli import fit
from blurcli.core import UNet
from blurcli.core.bands import band_names, frequency_bands
from blurcli.data import Dataset
from blurcli.model import Model
from blurcli.train.trainer import Trainer

_IMAGES = 32
_TIMES = 9
# Times the network's own loss. Averages that keep up had 0.93 to 1.00 of it on shapes, one that stayed as it began 1.03.
_STALE = 1.02


@dataclass(frozen=True)
class Losses:
    """Losses as of `fit.losses`, the same images and noise at every step.

    Attributes:
        step: training steps done.
        times: (T,) in [0, 1].
        bands: frequency bands by their wavelengths.
        network: of the network, (T, bands).
        average: of its moving average, likewise.
    """

    step: int
    times: list[float]
    bands: list[str]
    network: Tensor
    average: Tensor

    @property
    def stale(self) -> str:
        """What to say of a moving average that does not keep up; an empty string where it does."""
        own, average = float(self.network.mean()), float(self.average.mean())
        if average <= _STALE * own:
            return ""
        return f"the moving average's loss is {average / own:.3g} times the network's own: lower optim.ema_decay"

    @property
    def record(self) -> dict[str, Any]:
        """All of it, for a line of health.jsonl."""
        tables = {"loss": self.network.tolist(), "average_loss": self.average.tolist()}
        return {"step": self.step, "times": self.times, "bands": self.bands, **tables}


def measure(trainer: Trainer, dataset: Dataset) -> Losses:
    """The losses of a trainer's network and its average, without dropout, on images of the dataset."""
    count = min(_IMAGES, len(dataset.images))

    def errors(network: UNet) -> tuple[Tensor, Tensor]:
        moments = trainer.spectrum, trainer.mean
        model = Model(trainer.config, network, *moments, trainer.device, opponent=trainer.opponent)
        times, losses = fit.losses(model, dataset.images, count, trainer.config.seed, _TIMES)
        return times.cpu(), losses.cpu()

    trainer.network.eval()
    try:
        times, network = errors(trainer.network)
    finally:
        trainer.network.train()
    _, average = errors(trainer.average)
    bands = band_names(frequency_bands(*trainer.process.shape, 1)[1])
    return Losses(trainer.step, times.tolist(), bands, network, average)


def record(path: Path, losses: Losses, board: SummaryWriter) -> None:
    """Append them to health.jsonl, and to TensorBoard by time and by band."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(losses.record) + "\n")
    for t, loss in zip(losses.times, losses.network.mean(1), strict=True):
        board.add_scalar(f"loss_by_time/{t:g}", loss, losses.step)
    for band, loss in zip(losses.bands, losses.network.mean(0), strict=True):
        board.add_scalar(f"loss_by_band/{band}", loss, losses.step)
