"""The loop around a training step: what is logged, saved, looked at and mended on the way."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from blurcli import checkpoint, evaluate, files, render
from blurcli.checkpoint import State, Weights
from blurcli.config import Config, differing_keys, to_yaml
from blurcli.data import Batches, Dataset, measure_moments
from blurcli.errors import UsageError, UserError
from blurcli.model import Model, to_uint8
from blurcli.runs import Run
from blurcli.train import health
from blurcli.train.stops import Interrupted, Stopping, StopSignals
from blurcli.train.trainer import Trainer, learning_rate

_CALIBRATION_IMAGES = 32
_MOST_RESTORES = 3  # without a good save between them
_SPIKE = 3  # times the median of the logged losses before
_RECENT = 20  # logged losses that a spike is told from

Say = Callable[[str], None]


@dataclass(frozen=True)
class Metrics:
    """What a log step reports.

    Attributes:
        step: training steps done, skipped ones included.
        loss: mean over the steps since the last report; None if all of them were skipped.
        grad_norm: of the last step, before clipping; None if it was skipped.
        lr: learning rate of the last step.
        images_per_sec: since the last report.
        skipped: steps so far whose loss or gradient was not finite.
    """

    step: int
    loss: float | None
    grad_norm: float | None
    lr: float
    images_per_sec: float
    skipped: int


class _Diverged(Exception):  # noqa: N818  not yet an error
    """So many steps in a row were skipped that the network is taken to be beyond repair."""


def train(
    config: Config,
    run: Run,
    dataset: Dataset,
    device: torch.device,
    say: Say = lambda text: None,
    on_log: Callable[[Metrics], None] = lambda metrics: None,
) -> Path:
    """Train to `config.train.steps`, from the run's saved state where there is one; returns the final weights file.

    Args:
        say: gets messages for a person.
        on_log: gets the metrics of every log step.

    Raises:
        UsageError: the folder holds a run that learns something else, or is no run.
        UserError: somebody else trains there, the training diverged for good, or a file cannot be written.
        Interrupted: SIGINT or SIGTERM came; the state was saved.
    """
    begun = run.config_path.exists() or run.saved_states()
    if run.path.exists() and not begun and not run.is_empty():
        raise UsageError(f"{run.path}: is no run folder, and not empty; name another one with --run")
    with _deterministic(config.train.deterministic), run.locked(say):
        files.remove_partial(run.path)
        if run.config_path.exists():
            _check_agreement(run.config(), config, run)
        judge = _judge(config, dataset, device, say)
        trainer = _prepare(config, run, dataset, device, say)
        millions = trainer.network.parameter_count() / 1e6
        say(f"{millions:.2f} M parameters, {len(dataset.images):,} images ({dataset.name}), on {device.type}")
        loop = _Loop(run, dataset, judge, say, on_log)
        with files.explained(run.metrics_path), StopSignals() as stops:
            while True:
                _forget_after(run.metrics_path, trainer.step)
                _forget_after(run.health_path, trainer.step)
                try:
                    with SummaryWriter(run.path, purge_step=trainer.step) as board:
                        loop(trainer, board, stops)
                    break
                except _Diverged:
                    trainer = _restored(trainer, run, loop, say)
    if stops.number is not None and trainer.step < config.train.steps:
        raise Interrupted(stops.number, trainer.step)
    return run.weights_path(trainer.step)


class _Loop:
    """Steps, and what is written between them."""

    def __init__(
        self, run: Run, dataset: Dataset, judge: evaluate.Judge | None, say: Say, on_log: Callable[[Metrics], None]
    ) -> None:
        self._run = run
        self._dataset = dataset
        self._judge = judge
        self._say = say
        self._on_log = on_log
        self._losses: deque[float] = deque(maxlen=_RECENT)
        self.restores = 0
        self.diverged_at = 0

    def __call__(self, trainer: Trainer, board: SummaryWriter, stops: StopSignals) -> None:
        """Train until the last step, or a signal; both end with everything saved. Raises _Diverged."""
        settings, run = trainer.config.train, self._run
        batches = Batches(
            self._dataset.images, settings.batch_size, trainer.config.seed, trainer.config.data.flip, trainer.device
        )
        meter = _Meter(trainer, settings.batch_size)
        saved = trainer.step
        if saved and not run.weights_path(saved).exists():
            _save_weights(trainer, run, self._dataset)  # the last run ended between state and weights
        while trainer.step < settings.steps and stops.number is None:
            meter.add(*trainer.train_step(batches(trainer.step)))
            if trainer.step % settings.log_every_steps == 0:
                self._report(meter, trainer, board)
            with meter.paused():
                # A state in the middle of a row of skipped steps is no good one to come back to.
                if trainer.step % settings.save_every_steps == 0 and not trainer.skipped_in_row:
                    self._save(trainer)
                    saved = trainer.step
                with suppress(Stopping), stops.heeded_by(trainer.network, trainer.average):
                    self._look(trainer, board)
        if meter.steps:
            self._report(meter, trainer, board)
        if trainer.step > saved:
            self._save(trainer)

    def _report(self, meter: _Meter, trainer: Trainer, board: SummaryWriter) -> None:
        steps, skipped_before = meter.steps, meter.skipped_before
        metrics = meter.read()
        _log(metrics, self._run, board)
        self._on_log(metrics)
        if metrics.loss is not None:
            usual = median(self._losses) if len(self._losses) == _RECENT else math.inf
            if metrics.loss > _SPIKE * usual:
                self._say(f"step {metrics.step}: the loss has jumped to {metrics.loss:.4g}, from a median of {usual:.4g}")
            self._losses.append(metrics.loss)
        in_row = int(trainer.skipped_in_row)
        if in_row >= trainer.config.train.max_bad_steps:
            self._say(f"step {trainer.step}: the last {in_row} steps had no finite loss and gradient")
            raise _Diverged
        if metrics.skipped > skipped_before:
            self._say(
                f"step {trainer.step}: {metrics.skipped - skipped_before} of the last {steps} steps were skipped: "
                "their loss or gradient was not finite"
            )

    def _save(self, trainer: Trainer) -> None:
        # The state first: after a signal there may be little time, and weights can be made from it.
        run = self._run
        checkpoint.save_state(run.state_path, trainer.state(self._dataset.fingerprint), run.previous_state_path)
        _save_weights(trainer, run, self._dataset)
        if trainer.config.train.keep is not None:
            for path in run.all_weights()[: -trainer.config.train.keep]:
                path.unlink(missing_ok=True)
        if trainer.step > self.diverged_at:
            self.restores = 0

    def _look(self, trainer: Trainer, board: SummaryWriter) -> None:
        """Whatever shows how the training does."""
        settings = trainer.config.train
        if settings.health_every_steps is not None and trainer.step % settings.health_every_steps == 0:
            losses = health.measure(trainer, self._dataset)
            health.record(self._run.health_path, losses, board)
            if losses.stale:
                self._say(f"step {trainer.step}: {losses.stale}")
        if trainer.step % settings.preview_every_steps == 0:
            _preview(trainer, self._run, self._dataset, board)
        if self._judge is not None and trainer.step % (settings.score_every_steps or 1) == 0:
            self._say(_score(trainer, self._run, self._dataset, self._judge, board))


class _Meter:
    """Sums the losses on the device, which is asked for them, and so waited for, only when they are read."""

    def __init__(self, trainer: Trainer, batch_size: int) -> None:
        self._trainer = trainer
        self._batch_size = batch_size
        self.skipped_before = int(trainer.skipped)
        self._reset()

    def add(self, loss: Tensor, grad_norm: Tensor) -> None:
        self.steps += 1
        finite = loss.isfinite() & grad_norm.isfinite()
        self._loss += torch.where(finite, loss, 0)
        self._finite += finite
        self._grad_norm = grad_norm

    def read(self) -> Metrics:
        finite, last = int(self._finite), self._grad_norm.item()
        loss = self._loss.item() / finite if finite else None
        rate = self.steps * self._batch_size / (time.perf_counter() - self._started)
        lr = learning_rate(self._trainer.config.optim, self._trainer.step - 1)
        grad_norm = last if math.isfinite(last) else None
        self.skipped_before = int(self._trainer.skipped)
        metrics = Metrics(self._trainer.step, loss, grad_norm, lr, rate, self.skipped_before)
        self._reset()
        return metrics

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not training."""
        begun = time.perf_counter()
        yield
        self._started += time.perf_counter() - begun

    def _reset(self) -> None:
        self.steps = 0
        self._loss = torch.zeros((), device=self._trainer.device)
        self._finite = torch.zeros((), dtype=torch.int64, device=self._trainer.device)
        self._grad_norm = self._loss
        self._started = time.perf_counter()


def _prepare(config: Config, run: Run, dataset: Dataset, device: torch.device, say: Say) -> Trainer:
    """A trainer for a new run, whose folder is begun, or for one that goes on."""
    trainer: Trainer
    if run.saved_states():
        state, path = _newest_state(run, say)
        _check_agreement(state.config, config, run)
        if state.data != dataset.fingerprint:
            raise UsageError(
                f"{run.path}: was trained on other images than {dataset.name}; give the same ones, or another --run"
            )
        trainer = Trainer.resume(state, config, path, device)
        say(f"continuing {run.path} from step {trainer.step}")
        if trainer.step >= config.train.steps and run.weights_path(trainer.step).exists():
            raise UsageError(
                f"{run.path}: is trained already ({trainer.step} steps); to go on: --set train.steps={2 * trainer.step}"
            )
    else:
        say("measuring the spectrum of the data")
        trainer = Trainer(config, *measure_moments(dataset.images, config.data.flip), device)
    with files.replacing(run.config_path) as temporary:
        temporary.write_text(to_yaml(config), encoding="utf-8")
    return trainer


def _newest_state(run: Run, say: Say) -> tuple[State, Path]:
    """The newer of the two saved states and its file, or the one before it where that is damaged."""
    errors = []
    for path in run.saved_states():
        try:
            state = checkpoint.load_state(path)
        except UserError as error:
            errors.append(str(error))
            continue
        if errors:
            say(f"{errors[0]}; going on from the state before it")
            # Or the next save would put the damaged one in the place of the good one.
            with files.explained(run.state_path):
                run.state_path.replace(run.damaged_state_path)
        return state, path
    raise UserError("; ".join(errors) + "; begin anew in another folder (--run)")


def _restored(trainer: Trainer, run: Run, loop: _Loop, say: Say) -> Trainer:
    """The training as it was at the last good save, to go on with other random numbers than before.

    Raises:
        UserError: there is none, or going back has not helped.
    """
    advice = "lower optim.lr, raise optim.warmup_steps, or set train.precision to fp32"
    loop.diverged_at = max(loop.diverged_at, trainer.step)
    saved = run.saved_states()
    if not saved or loop.restores >= _MOST_RESTORES:
        why = f"{loop.restores} restored states did no better" if saved else "no state was saved before"
        raise UserError(f"{run.path}: the training has diverged, and {why}: begin anew in another folder (--run), and {advice}")
    states = {path: checkpoint.load_state(path) for path in saved}
    good = [path for path, state in states.items() if not state.tensors.get("health.skipped_in_row")] or saved
    # The newest may be finite and yet too far gone.
    path = good[-1] if loop.restores else good[0]
    restored = Trainer.resume(states[path], trainer.config, path, trainer.device)
    restored.restores = trainer.restores + 1
    restored.skipped_in_row.zero_()
    loop.restores += 1
    say(f"going on from the state of step {restored.step}, with other noise; if this happens again, {advice}")
    return restored


def _check_agreement(old: Config, new: Config, run: Run) -> None:
    if different := differing_keys(old, new):
        raise UsageError(
            f"{run.path}: holds a run with another configuration; name another folder with --run, or use its values:\n  "
            + "\n  ".join(different)
        )


def _save_weights(trainer: Trainer, run: Run, dataset: Dataset) -> None:
    network, gain = dict(trainer.average.state_dict()), _gain(trainer, dataset)
    path = run.weights_path(trainer.step)
    checkpoint.save_weights(Weights(trainer.config, trainer.step, network, trainer.spectrum, trainer.mean, gain, path))


def _preview(trainer: Trainer, run: Run, dataset: Dataset, board: SummaryWriter) -> None:
    model = _averaged(trainer, _gain(trainer, dataset))
    images = torch.cat([to_uint8(x) for x in model.generate(trainer.config.train.preview_images, seed=0)]).numpy()
    render.save_grid(images, run.preview_path(trainer.step), scale=2)
    board.add_image("samples", render.tile(images), trainer.step, dataformats="HWC")


def _judge(config: Config, dataset: Dataset, device: torch.device, say: Callable[[str], None]) -> evaluate.Judge | None:
    """What scores samples against the training images on the way, where the preset wants that."""
    if config.train.score_every_steps is None:
        return None
    say("measuring the training images for scores")
    features = evaluate.load_features(config.train.score_features, config.score.mode, device)
    reference = evaluate.image_reference(dataset, "train", features, lambda done: None)
    judge = evaluate.Judge(features, reference, device)
    judge.check_enough(config.train.score_images, "train.score_images", "or set train.score_every_steps=null")
    return judge


def _score(trainer: Trainer, run: Run, dataset: Dataset, judge: evaluate.Judge, board: SummaryWriter) -> str:
    """Score samples, always of the same seeds; a message that says how they did."""
    model = _averaged(trainer, _gain(trainer, dataset))
    count = trainer.config.train.score_images
    protocol = evaluate.model_protocol(model, trainer.step, count, seed=0, solver=model.solver(None, None, None))
    score = judge.score_model(model, protocol, lambda done: None, name="training")
    evaluate.record(run.evaluations_path, score)
    board.add_scalar(judge.metric, score[judge.metric], trainer.step)
    return f"step {trainer.step}: {judge.metric.upper()} {score[judge.metric]:.4f} ({judge.features.key}, {count:,} images)"


def _averaged(trainer: Trainer, gain: Tensor | None = None) -> Model:
    return Model(trainer.config, trainer.average, trainer.spectrum, trainer.mean, trainer.device, gain)


def _gain(trainer: Trainer, dataset: Dataset) -> Tensor | None:
    """What the averaged network's estimates are worth, for the objective whose errors a division by alpha magnifies."""
    if trainer.config.objective != "eps":
        return None
    count = min(_CALIBRATION_IMAGES, len(dataset.images))
    return _averaged(trainer).errors(dataset.images, count, trainer.config.seed).gain


def _log(metrics: Metrics, run: Run, board: SummaryWriter) -> None:
    with run.metrics_path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(metrics)) + "\n")
    for name, value in asdict(metrics).items():
        if name != "step" and value is not None:
            board.add_scalar(name, value, metrics.step)


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that a stopped run logged but did not save: they will come again."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    with files.replacing(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line cut short by a crash
        return math.inf


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Deterministic algorithms while the block runs, where they are wanted."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
