"""Studies: trainings with paired seeds and their scores, shared by any number of processes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base import console, files
from blurcli.base.errors import DivergedError, LockedError, UsageError, option
from blurcli.workflows.scoring import ScoringOptions, score_images
from blurcli.workflows.session import chosen_count, load_images, load_model, load_torch
from blurcli.workflows.study_plan import LOCKS, Plan, record_mark, record_study
from blurcli.workflows.study_tasks import Cell, Task

if TYPE_CHECKING:
    from torch import Tensor

    from blurcli.base.runs import Run
    from blurcli.config import Config
    from blurcli.config.study_schema import StudyScore
    from blurcli.data import Dataset
    from blurcli.evaluate import ModelImages, ScoredImages, Scorer
    from blurcli.training import Metrics
    from blurcli.training.monitoring import DrawPreview

_POLL_SEC = 2.0
_MOST_KEPT_BYTES = 1 << 30


@dataclass
class Worker:
    """Does the trainings and scores of a study that no other process does.

    Attributes:
        plan: the study.
        device: as for `inference.choose_device`.
        features: the network of scores with `features: file`.
    """

    plan: Plan
    device: str
    features: Path | None
    _scorers: dict[Any, Scorer] = field(default_factory=dict)
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _samples: dict[str, list[Tensor]] = field(default_factory=dict)  # of the last score

    def work(self, tasks: Sequence[Task]) -> None:
        """Do what is missing of some tasks; wait for those that other processes do.

        A training that diverges is recorded as failed, and the others go on.

        Raises:
            UsageError: a score cannot be measured, found before the first training.
            UserError: a file cannot be read or written.
            Interrupted: a signal stopped a training, after its state was saved.
        """
        self._check_images(tasks)
        pending = [task for task in tasks if self.plan.left(task)]
        if not pending:
            return
        record_study(self.plan)
        load_torch()
        self._check_scores()
        told = False
        while pending := [task for task in pending if self.plan.left(task)]:
            progressed = False
            for task in pending:
                progressed = self._try(task) or progressed
            if not progressed:
                if not told:
                    several = f"{len(pending)} trainings" if len(pending) > 1 else "a training"
                    console.notify(f"waiting for {several} of other processes; Ctrl-C ends the waiting")
                told = True
                time.sleep(_POLL_SEC)

    def _try(self, task: Task) -> bool:
        """Do what can be done of a task now; whether it was anything."""
        if task.teacher is not None and not _is_trained(task.teacher):
            return False
        with suppress(LockedError), files.locked(self._lock(task), "working on the study", console.notify):
            try:
                return self._do(task)
            except DivergedError as error:
                task.fail(str(error))
                console.notify(f"{task.variant.name}, seed {task.seed}: {error}; the study goes on without it")
                return True
        return False

    def _lock(self, task: Task) -> Path:
        return self.plan.folder / LOCKS / "-".join(task.run.path.relative_to(self.plan.folder).parts)

    def _do(self, task: Task) -> bool:
        done = False
        for steps in self._stages(task):
            if task.variant.weights is None and not _has_reached(task, steps):
                self._train(task, steps)
                done = True
            for cell in self.plan.left(task):
                # Sampling options do not matter to the likelihood: its score may be that of another variant.
                if cell.steps == steps and cell.mark not in task.scores() and (guide := self._guide(cell)) is not None:
                    self._score(task, cell, guide[0])
                    done = True
        return done

    def _stages(self, task: Task) -> list[int | None]:
        """The lengths of a training in order; None for the end of a distillation, and for weights."""
        return [*task.lengths] or [None]

    def _guide(self, cell: Cell) -> tuple[Path | str | None] | None:
        """The weights of a score's guide; None while they are missing."""
        if (trained := self.plan.guide_of(cell)) is not None:
            return (trained[1],) if trained[1].exists() else None
        assert not isinstance(cell.guide, tuple)
        return (cell.guide,)

    def _train(self, task: Task, steps: int | None) -> None:
        from blurcli.model.inference import choose_device
        from blurcli.training import train
        from blurcli.workflows.distillation import set_up

        teacher = None
        if task.teacher is not None:
            weights = task.teacher.run.weights_path(task.teacher.config.train.steps)
            keys = {**task.variant.assigned, "seed": task.seed, "data.source": task.config.data.source}
            found = set_up(str(weights), None, task.run.path, keys)
            config, teacher = found.config, found.teacher
        else:
            assert steps is not None
            config = task.config.model_copy(update={"train": task.config.train.model_copy(update={"steps": steps})})
        title = f"{task.variant.name}, seed {task.seed}"
        with console.progress(f"{title}: training", config.train.steps) as update:
            train(config, task.run, self._images(config), choose_device(self.device), _Reporter(update, title), teacher=teacher)

    def _images(self, config: Config) -> Dataset:
        key = config.data.model_dump_json()
        if key not in self._datasets:
            self._datasets = {key: load_images(config, config.data.source, "train", config.data.classes)}
        return self._datasets[key]

    def _score(self, task: Task, cell: Cell, guide: Path | str | None) -> None:
        from blurcli.core.sampling_options import SamplingRequest
        from blurcli.evaluate import ModelImages, record

        weights: Path | str = task.variant.weights or _weights(task, cell)
        score = self.plan.study.scores[cell.number]
        guide = None if guide is None else str(guide)
        model, step = load_model(weights, self.device, guide=guide)
        title = f"{cell.variant}, seed {cell.seed}, step {step:,}"
        labels = {**record_mark(cell), "weights": str(weights)}
        if score.likelihood is not None:
            line = self._likelihood(score, model, step, title) | labels | {"name": task.variant.name}
        else:
            shape = (model.config.data.channels, *model.config.data.image_size)
            scorer, n = self._scorer(score, shape), score.n or self.plan.study.config.score.n
            images = ModelImages(model, step, n, cell.seed, model.resolve(SamplingRequest(**cell.request)))
            line = score_images(scorer, self._kept(images, title), n, title, **labels)
            console.notify(f"{title}: {_shown(line, scorer.metric)}")
        task.run.path.mkdir(parents=True, exist_ok=True)
        record(task.run.evaluations_path, line)

    def _kept(self, images: ModelImages, title: str) -> ScoredImages:
        """The same images, kept for the next score: several features may be measured on them."""
        from blurcli.evaluate import StoredImages
        from blurcli.model.pipeline import to_uint8

        data = images.pipeline.config.data
        if images.count * data.channels * math.prod(data.image_size) > _MOST_KEPT_BYTES:
            return images
        key = json.dumps(images.protocol)
        if key not in self._samples:
            with console.progress(title, images.count) as update:
                made = images.pipeline.generate(images.count, images.seed, images.sampling, on_progress=update)
                self._samples = {key: [to_uint8(batch) for batch in made]}
        return StoredImages(self._samples[key], images.count, images.protocol)

    def _likelihood(self, score: StudyScore, model: Any, step: int, title: str) -> dict[str, Any]:
        from blurcli.evaluate.denoising import MeasuredImages
        from blurcli.evaluate.likelihood import likelihood_score
        from blurcli.families import LikelihoodConfig

        config, sampling = self.plan.study.config, score.sampling
        split = score.split or config.score.split
        chosen = model.family.resolve_likelihood(LikelihoodConfig(steps=sampling.get("steps"), delta=sampling.get("delta")))
        dataset = load_images(config, config.data.source, split, None if model.classes is None else model.classes.names)
        # The same images and noise for all trainings, so that their bounds can be compared.
        measured = MeasuredImages(dataset.images, chosen_count(score.likelihood, dataset), 0, dataset.labels)
        with console.progress(title, measured.count) as update:
            line, _ = likelihood_score(model, dataset, measured, chosen, update)
        console.notify(f"{title}: {_shown(line, 'bits_per_dim')}")
        return line | {"step": step, "split": split}

    def _scorer(self, score: StudyScore, shape: tuple[int, int, int]) -> Scorer:
        config = self.plan.study.config
        features = str(self.features) if score.features == "file" else score.features
        options = ScoringOptions(features, score.mode, score.split, config.data.source, None, None, self.device)
        if (options, shape) not in self._scorers:
            self._scorers[options, shape] = options.scorer(config, None, shape)
        return self._scorers[options, shape]

    def _check_scores(self) -> None:
        """Find what a score lacks (a split, a network, images, a metric) before the first training."""
        from blurcli.evaluate import TITLES

        study, config = self.plan.study, self.plan.study.config
        for score in study.scores:
            if score.likelihood is not None:
                chosen_count(score.likelihood, load_images(config, config.data.source, score.split or config.score.split))
                continue
            scorer = self._scorer(score, (config.data.channels, *config.data.image_size))
            scorer.check_enough(score.n or config.score.n, f"{study.path}: scores: n", "or other features")
            known = [metric.name for metric in scorer.metrics if metric.name in TITLES]
            if unknown := [name for name in score.metrics or () if name not in known]:
                raise UsageError(
                    f"{study.path}: scores: metrics: {unknown[0]!r} is not measured here (known: {', '.join(known)})"
                )

    def _check_images(self, tasks: Sequence[Task]) -> None:
        """Refuse other images than those of a training that is there; they may have been moved."""
        from blurcli.config import load_run_config

        for task in tasks:
            if not task.run.config_path.exists() or task.teacher is not None:
                continue
            known = load_run_config(task.run.config_path).data.source
            if known != task.config.data.source and task.run.saved_states():
                from blurcli.training.state import newest_state

                state, _ = newest_state(task.run, console.notify)
                if state.data != self._images(task.config).fingerprint:
                    raise UsageError(
                        f"{task.run.path}: was trained on other images ({known}) than {task.config.data.source}; use another "
                        f"folder with {option('out')}"
                    )


class _Reporter:
    def __init__(self, update: Any, title: str) -> None:
        self.draw_preview: DrawPreview | None = None
        self._update, self._title = update, title

    def notify(self, text: str) -> None:
        if text.startswith("warning"):
            console.notify(f"{self._title}: {text}")

    def on_step(self, step: int) -> None:
        self._update(step)

    def on_log(self, metrics: Metrics) -> None:
        self._update(metrics.step, note=f"{metrics.images_per_sec:.0f} images/s")


def _is_trained(task: Task) -> bool:
    return task.run.weights_path(task.config.train.steps).exists()


def _has_reached(task: Task, steps: int | None) -> bool:
    """Whether the weights of a length exist; for None, those of the whole distillation."""
    if steps is not None:
        return task.run.weights_path(steps).exists()
    return _last_step(task.run) is not None


def _last_step(run: Run) -> int | None:
    """The steps of a run that has its last weights; else None."""
    from blurcli.config import load_run_config

    if not run.config_path.exists():
        return None
    steps = load_run_config(run.config_path).train.steps
    return steps if run.weights_path(steps).exists() else None


def _weights(task: Task, cell: Cell) -> Path:
    steps = cell.steps if cell.steps is not None else _last_step(task.run)
    assert steps is not None
    return task.run.weights_path(steps)


def _shown(line: dict[str, Any], metric: str) -> str:
    from blurcli.evaluate import TITLES

    return f"{TITLES[metric]} {line[metric]:.4f}"
