"""The duration of a training: its steps, and the previews and measurements between them."""

from __future__ import annotations

import bisect
import math
from pathlib import Path

from blurcli.base import files
from blurcli.config import Config
from blurcli.training.monitoring import HEALTH_IMAGES, HEALTH_TIMES, health_interval

_FORWARD = 1 / 3  # of the work of a training step per image


def seconds_of(config: Config, steps: float, step_sec: float) -> float:
    """Seconds for `steps` training steps, including the last preview. Scores are not included: their features vary.

    Args:
        config: has the intervals of measurements and previews.
        steps: number of steps.
        step_sec: seconds per step, without these.
    """
    settings, every = config.train, health_interval(config.train)

    def calls(images: int) -> float:
        return images * _FORWARD / settings.batch_size

    previews = calls(settings.preview_images * config.sample.steps) * (steps / settings.preview_every_steps + 1)
    health = 0 if every is None else calls(2 * HEALTH_IMAGES * HEALTH_TIMES) * steps / every
    return step_sec * (steps + previews + health)


def steps_in(config: Config, seconds: float, step_sec: float) -> int:
    """The number of training steps that fit into a time; at least 1."""

    def taken(steps: int) -> float:
        return seconds_of(
            config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})}), steps, step_sec
        )

    return max(1, bisect.bisect(range(math.ceil(seconds / step_sec) + 2), seconds + step_sec / 2, key=taken) - 1)


def seconds_spent(metrics: Path, batch_size: int) -> float:
    """Seconds of the steps recorded in a run's metrics.jsonl."""
    total, before = 0.0, 0
    for line in files.json_lines(metrics):
        step, rate = line.get("step"), line.get("images_per_sec")
        if isinstance(step, int) and isinstance(rate, int | float) and rate > 0:
            total, before = total + (step - before) * batch_size / rate, step
    return total
