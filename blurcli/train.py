"""Training: the state, one step, and the loop around it."""

from __future__ import annotations

import copy
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from blurcli import checkpoint, evaluate, files, render
from blurcli.checkpoint import State, Tensors, Weights
from blurcli.config import Config, OptimConfig, differing_keys, to_yaml
from blurcli.core import Denoiser, UNet
from blurcli.core.denoiser import reference_gaussian, signal_share
from blurcli.core.rng import step_seed
from blurcli.data import Batches, Dataset, measure_moments
from blurcli.errors import UsageError, UserError
from blurcli.model import Model, build_denoiser, build_network, build_process, memory_format, mixed_precision, to_uint8
from blurcli.runs import Run

_BALANCE = 0.1
_CALIBRATION_IMAGES = 32


@dataclass(frozen=True)
class Metrics:
    """What a log step reports.

    Attributes:
        step: training steps done.
        loss: mean over the steps since the last report.
        grad_norm: of the last step, before clipping.
        lr: learning rate of the last step.
        images_per_sec: since the last report.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    images_per_sec: float


class Interrupted(Exception):  # noqa: N818  nothing went wrong
    """A signal stopped the training, after its state was saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.exit_code = 128 + number


class Trainer:
    """A network in training: parameters, their moving average, the optimizer, and the number of steps done.

    Args:
        config: the resolved preset.
        spectrum: mean squared DCT coefficient of the data.
        mean: mean DCT coefficient of the data.
        device: where it runs.
    """

    def __init__(self, config: Config, spectrum: Tensor, mean: Tensor, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device
        self.spectrum, self.mean = spectrum.to(device), mean.to(device)
        self.network: UNet = build_network(config).to(device).to(memory_format=memory_format(device))
        self.average: UNet = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), betas=(0.9, config.optim.beta2), fused=True)
        self.denoiser: Denoiser = build_denoiser(
            config, mixed_precision(self.network, config.train.precision, device), self.spectrum, self.mean
        )
        self.process = build_process(config)
        _, self.variance = reference_gaussian(self.process, self.spectrum, self.mean)
        self.step = 0

    def train_step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One step on a batch in [-1, 1]; returns the loss and the norm of the gradient, as scalars on the device.

        Everything random in it follows from (seed, step).

        Raises:
            UserError: the loss or the gradient is not finite; parameters and optimizer are as before.
        """
        torch.manual_seed(step_seed(self.config.seed, self.step))
        # Stratified times: as uniform as independent ones, with less variance.
        t = (torch.arange(len(x), device=x.device) + torch.rand(1, device=x.device)) / len(x)
        loss = (self.denoiser.loss(x, t, torch.randn_like(x)) * self._loss_weight(t)).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        grad_norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optim.grad_clip)
        if not math.isfinite(grad_norm):
            raise UserError(
                f"step {self.step}: the loss ({loss.item():g}) or its gradient ({grad_norm.item():g}) is not finite, and the "
                "weights were left as they were: lower optim.lr, raise optim.warmup_steps, or set train.precision to fp32"
            )
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.config.optim, self.step)
        self.optimizer.step()
        self.step += 1
        # A short average while the weights still move far, as in Karras et al. (2024, arXiv 2312.02696) and before.
        decay = min(self.config.optim.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        return loss.detach(), grad_norm

    def _loss_weight(self, t: Tensor) -> Tensor:
        if self.config.optim.loss_weight == "paper":
            return torch.ones_like(t)
        # Late times, when few frequencies are alive, count for nearly nothing in the paper's loss, though they decide the
        # coarse structure. The constant bounds the weight of the very last ones.
        return 1 / (signal_share(self.process, self.variance, t) + _BALANCE)

    def state(self, data: str) -> State:
        """Everything for an exact continuation; `data` is the fingerprint of the images."""
        tensors: Tensors = {"spectrum": self.spectrum, "mean": self.mean}
        averages = dict(self.average.named_parameters())
        for name, parameter in self.network.named_parameters():
            tensors |= {f"net.{name}": parameter, f"ema.{name}": averages[name]}
            tensors |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        return State(self.config, self.step, data, tensors)

    @classmethod
    def resume(cls, state: State, config: Config, path: Path, device: torch.device) -> Trainer:
        """A trainer that continues from `state` as if it had never stopped; UserError when the state does not fit."""
        try:
            trainer = cls(config, state.tensors["spectrum"], state.tensors["mean"], device)
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: {error}; the file is damaged") from None
        parts: dict[str, Tensors] = {}
        for full_name, tensor in state.tensors.items():
            part, _, name = full_name.partition(".")
            parts.setdefault(part, {})[name] = tensor
        checkpoint.fill(trainer.network, parts.get("net", {}), path)
        checkpoint.fill(trainer.average, parts.get("ema", {}), path)
        try:
            for name, parameter in trainer.network.named_parameters():
                trainer.optimizer.state[parameter] = {
                    # Fused Adam reads memory in order: its moments must lie in memory as the parameter does.
                    **{
                        key: torch.empty_like(parameter).copy_(parts["adam"][f"{key}.{name}"])
                        for key in ("exp_avg", "exp_avg_sq")
                    },
                    "step": parts["adam"][f"step.{name}"].to(device),
                }
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{path}: the optimizer's state is incomplete ({error}); the file is damaged") from None
        trainer.step = state.step
        return trainer


def learning_rate(optim: OptimConfig, step: int) -> float:
    """The learning rate of step `step`, counted from 0: linear warm-up, constant, then 1 / sqrt(step).

    It does not depend on the length of the training, so that a run can be prolonged.
    """
    warm = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    decay = 1.0 if optim.decay_from_step is None else max(1.0, (step + 1) / optim.decay_from_step) ** -0.5
    return optim.lr * warm * decay


def train(
    config: Config,
    run: Run,
    dataset: Dataset,
    device: torch.device,
    say: Callable[[str], None] = lambda text: None,
    on_log: Callable[[Metrics], None] = lambda metrics: None,
) -> Path:
    """Train to `config.train.steps`, from the run's saved state where there is one; returns the final weights file.

    Args:
        say: gets messages for a person.
        on_log: gets the metrics of every log step.

    Raises:
        UsageError: the folder holds a run that learns something else, or is no run.
        UserError: a non-finite loss, or a file that cannot be written.
        Interrupted: SIGINT or SIGTERM came; the state was saved.
    """
    judge = _judge(config, dataset, device, say)
    trainer = _prepare(config, run, dataset, device, say)
    millions = trainer.network.parameter_count() / 1e6
    say(f"{millions:.2f} M parameters, {len(dataset.images):,} images ({dataset.name}), on {device.type}")
    with files.explained(run.metrics_path):
        _forget_after(run.metrics_path, trainer.step)
        with _stop_signals() as stops, SummaryWriter(run.path, purge_step=trainer.step) as board:
            _loop(trainer, run, dataset, judge, board, stops, say, on_log)
    if stops:
        raise Interrupted(stops[0], trainer.step)
    return run.weights_path(trainer.step)


def _loop(
    trainer: Trainer,
    run: Run,
    dataset: Dataset,
    judge: evaluate.Judge | None,
    board: SummaryWriter,
    stops: list[int],
    say: Callable[[str], None],
    on_log: Callable[[Metrics], None],
) -> None:
    settings = trainer.config.train
    batches = Batches(dataset.images, settings.batch_size, trainer.config.seed, trainer.config.data.flip, trainer.device)
    meter = _Meter(trainer, settings.batch_size)

    def report() -> None:
        metrics = meter.read()
        _log(metrics, run, board)
        on_log(metrics)

    while trainer.step < settings.steps and not stops:
        meter.add(*trainer.train_step(batches(trainer.step)))
        if trainer.step % settings.log_every_steps == 0:
            report()
        with meter.paused():
            if trainer.step % settings.save_every_steps == 0:
                _save(trainer, run, dataset)
            if trainer.step % settings.preview_every_steps == 0:
                _preview(trainer, run, dataset, board)
            if judge is not None and trainer.step % (settings.score_every_steps or 1) == 0:
                say(_score(trainer, run, dataset, judge, board))
    if meter.steps:
        report()
    if trainer.step % settings.save_every_steps:
        _save(trainer, run, dataset)


class _Meter:
    """Sums the losses on the device, which is asked for them, and so waited for, only when they are read."""

    def __init__(self, trainer: Trainer, batch_size: int) -> None:
        self._trainer = trainer
        self._batch_size = batch_size
        self._reset()

    def add(self, loss: Tensor, grad_norm: Tensor) -> None:
        self.steps += 1
        self._loss += loss
        self._grad_norm = grad_norm

    def read(self) -> Metrics:
        loss = self._loss.item() / self.steps
        rate = self.steps * self._batch_size / (time.perf_counter() - self._started)
        lr = learning_rate(self._trainer.config.optim, self._trainer.step - 1)
        metrics = Metrics(self._trainer.step, loss, self._grad_norm.item(), lr, rate)
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
        self._grad_norm = self._loss
        self._started = time.perf_counter()


def _prepare(config: Config, run: Run, dataset: Dataset, device: torch.device, say: Callable[[str], None]) -> Trainer:
    """A trainer for a new run, whose folder is begun, or for one that goes on."""
    if run.config_path.exists():
        _check_agreement(run.config(), config, run)
    elif run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise UsageError(f"{run.path}: is no run folder, and not empty; name another one with --run")
    trainer: Trainer
    if run.state_path.exists():
        state = checkpoint.load_state(run.state_path)
        _check_agreement(state.config, config, run)
        if state.data != dataset.fingerprint:
            raise UsageError(
                f"{run.path}: was trained on other images than {dataset.name}; give the same ones, or another --run"
            )
        trainer = Trainer.resume(state, config, run.state_path, device)
        say(f"continuing {run.path} from step {trainer.step}")
        if trainer.step >= config.train.steps:
            raise UsageError(
                f"{run.path}: is trained already ({trainer.step} steps); to go on: --set train.steps={2 * trainer.step}"
            )
    else:
        say("measuring the spectrum of the data")
        trainer = Trainer(config, *measure_moments(dataset.images, config.data.flip), device)
    with files.replacing(run.config_path) as temporary:
        temporary.write_text(to_yaml(config), encoding="utf-8")
    return trainer


def _check_agreement(old: Config, new: Config, run: Run) -> None:
    if different := differing_keys(old, new):
        raise UsageError(
            f"{run.path}: holds a run with another configuration; name another folder with --run, or use its values:\n  "
            + "\n  ".join(different)
        )


def _save(trainer: Trainer, run: Run, dataset: Dataset) -> None:
    path = run.weights_path(trainer.step)
    network = dict(trainer.average.state_dict())
    gain = _gain(trainer, dataset)
    checkpoint.save_weights(Weights(trainer.config, trainer.step, network, trainer.spectrum, trainer.mean, gain, path))
    checkpoint.save_state(run.state_path, trainer.state(dataset.fingerprint))


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
    reference = evaluate.image_reference(dataset, features, lambda done: None)
    judge = evaluate.Judge(features, reference, "train", device)
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
    for name in ("loss", "grad_norm", "lr", "images_per_sec"):
        board.add_scalar(name, getattr(metrics, name), metrics.step)


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
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM while the block runs; a second one interrupts at once."""
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
