"""How long a training takes: its steps, and the previews and measurements between them."""

from __future__ import annotations

from pathlib import Path

from blurcli import files
from blurcli.config import Config
from blurcli.training.monitoring import HEALTH_IMAGES, HEALTH_POINTS, HEALTH_STEPS, HEALTH_TIMES

_FORWARD = 1 / 3  # of the work of a training step, per image


def seconds_of(config: Config, steps: float, step_sec: float) -> float:
    """Seconds that `steps` training steps take, the last preview included.

    Args:
        config: says how often the network is measured and previewed.
        steps: number of steps.
        step_sec: seconds per step alone.
    """
    return step_sec * max(steps * per_step + fixed for per_step, fixed in _work(config))


def steps_in(config: Config, seconds: float, step_sec: float) -> int:
    """The number of steps for which a training takes so many seconds; at least 1."""
    return max(1, round(min((seconds / step_sec - fixed) / per_step for per_step, fixed in _work(config))))


def seconds_spent(metrics: Path, batch_size: int) -> float:
    """Seconds of the steps that a run's metrics.jsonl records."""
    total, before = 0.0, 0
    for line in files.json_lines(metrics):
        step, rate = line.get("step"), line.get("images_per_sec")
        if isinstance(step, int) and isinstance(rate, int | float) and rate > 0:
            total, before = total + (step - before) * batch_size / rate, step
    return total


def _work(config: Config) -> list[tuple[float, float]]:
    """The work per step and that besides, in units of a step; what is more counts. Scores are left out: features vary."""
    settings = config.train

    def calls(images: int) -> float:
        return images * _FORWARD / settings.batch_size

    preview = calls(settings.preview_images * config.sample.steps)
    health = calls(2 * HEALTH_IMAGES * HEALTH_TIMES)
    per_step = 1 + preview / settings.preview_every_steps
    if settings.health_every_steps == "auto":
        return [(per_step + health / HEALTH_STEPS, preview), (per_step, preview + health * HEALTH_POINTS)]
    every = settings.health_every_steps
    return [(per_step + (0 if every is None else health / every), preview)]
