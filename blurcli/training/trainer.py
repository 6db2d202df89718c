"""A network in training: its state, and one step."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from blurcli.base.checkpoint import Tensors, check_fit
from blurcli.base.distributed import SINGLE_PROCESS, DistributedContext
from blurcli.base.errors import UserError
from blurcli.config import Config
from blurcli.core import UNet
from blurcli.core.augment import augment, draw_augment_labels
from blurcli.core.denoiser import Network
from blurcli.core.execution import state_device
from blurcli.core.moments import DataMoments, reference_gaussian
from blurcli.core.rng import step_seed
from blurcli.core.unet import draw_dropout_seeds
from blurcli.core.weighting import LOSS_WEIGHTS, signal_share
from blurcli.families import ModelData, family_of
from blurcli.model.inference import CompileOrFallback, build_network, load_network, memory_format, mixed_precision
from blurcli.model.weights import Weights
from blurcli.training.losses import DistillationLoss, ObjectiveLoss, TrainingLoss
from blurcli.training.optimizers import check_state, load_state, make_optimizer
from blurcli.training.state import TrainingState

Conditions = dict[str, Tensor]
"""Keyword arguments of the network, each (B, ...)."""


class Trainer:
    """A network in training: parameters, their EMA, the optimizer, and the number of steps done.

    Args:
        config: the resolved preset.
        moments: of the training data, with an opponent spectrum for a network in opponent colors; those of the main process are
            used.
        device: where it runs.
        distributed: the processes that train together, each on its share of every batch.
        notify: receives messages.
        teacher: for objective consistency, the trained model to distill, from which tuning starts; else None.

    Attributes:
        network: the network in training mode.
        ema: the exponential moving average of its parameters, in evaluation mode.
        moments: of the training data, on the device of schedules, see `core.execution.state_device`.
        family: the family of the process.
        objective: what the network in training predicts, with its loss.
        loss: what is minimized.
        step: training steps done, skipped ones included.
        skipped: number of steps without a finite loss and gradient, which changed nothing, a scalar on the device.
        consecutive_skips: length of the current run of skipped steps, likewise.
        restores: how often the training returned to a saved state.

    Raises:
        ValueError: moments that do not fit the configuration.
        UserError: the teacher's tensors do not fit its configuration.
    """

    def __init__(
        self,
        config: Config,
        moments: DataMoments,
        device: torch.device,
        distributed: DistributedContext = SINGLE_PROCESS,
        notify: Callable[[str], None] = lambda text: None,
        teacher: Weights | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device
        self.distributed = distributed
        self._precise = state_device(device)
        self.moments = _broadcast_moments(moments, distributed).map(lambda tensor: tensor.to(self._precise))
        self.family = family_of(config)
        # A damaged state can hold anything.
        reference_gaussian(self.family.process, self.moments.second_moment, self.moments.mean)
        network = build_network(config) if teacher is None else load_network(teacher, device).requires_grad_().train()
        self.network: UNet = network.to(device).to(memory_format=memory_format(config, device))
        self.ema: UNet = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.network.checkpoint_activations = config.train.checkpoint_activations
        self.optimizer = make_optimizer(dict(self.network.named_parameters()), config.optim)
        self._parallel = None
        if distributed.size > 1:
            # 1x1 convolutions: all memory layouts are the same.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            self._parallel = DistributedDataParallel(self.network, gradient_as_bucket_view=True)
        trained = self._parallel or self.network
        compiling = config.train.compile if config.train.compile is not None else device.type == "cuda"

        def callable_of(module: nn.Module) -> Network:
            return mixed_precision(CompileOrFallback(module, notify) if compiling else module, config, device)

        self.objective = self.family.model(callable_of(trained), ModelData(self.moments)).trainable
        _, self._variance = reference_gaussian(self.family.process, *self.moments.in_model_space())
        times = self.family.training_times(self.moments)
        self.loss: TrainingLoss = ObjectiveLoss(self.objective, times, self._loss_weight)
        if teacher is not None:
            frozen = load_network(teacher, device).to(memory_format=memory_format(config, device))
            known = family_of(teacher.config).model(callable_of(frozen), ModelData(self.moments)).trainable
            self.loss = DistillationLoss(self.objective, known, times, self._loss_weight, config.distill)
        self.step = 0
        self.restores = 0
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.consecutive_skips = torch.zeros_like(self.skipped)
        self._micro_batch = self._fitting_micro_batch(notify)

    @property
    def diverged(self) -> bool:
        """Whether too many consecutive steps were skipped, so that the network counts as lost; waits for the device."""
        return int(self.consecutive_skips) >= self.config.train.max_bad_steps

    def train_step(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step on this process's share of a batch.

        If loss or gradient is not finite, parameters and optimizer are unchanged. All random numbers of a step follow from
        (seed, step, restores) and the position of an image in the batch: the division of the batch changes only rounding.

        Args:
            x: images (B, C, H, W) in [-1, 1], in red, green and blue.
            labels: their classes, int64 (B,), or None.

        Returns:
            The loss of the whole batch and the norm of its gradient, scalars on the device.
        """
        torch.manual_seed(step_seed(self.config.seed, self.step, self.restores))
        count = len(x) * self.distributed.size
        # Stratified times: as uniform as independent ones, with less variance.
        share = (torch.arange(count, device=self._precise) + torch.rand(1, device=self._precise)) / count
        eps = torch.randn(count, *x.shape[1:], device=x.device)
        seeds = draw_dropout_seeds(count, x.device)
        own = self.distributed.share(count)
        conditions = {"dropout_seeds": seeds[own]}
        if labels is not None:
            assert self.config.data.classes is not None
            dropped = torch.rand(count, device=x.device) < self.config.optim.class_dropout
            conditions["labels"] = torch.where(dropped[own], self.config.data.classes, labels)
        if self.config.data.augment:
            augment_labels = draw_augment_labels(count, self.config.data.augment, x.device)[own]
            conditions["augment_labels"] = augment_labels
            x = augment(x, augment_labels)
        x = self.moments.to_model_space(x)
        loss = self.distributed.mean(self._backward(x, share[own], eps[own], conditions))
        grad_norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optim.grad_clip)
        bad = ~(loss.isfinite() & grad_norm.isfinite())
        self.skipped += bad
        self.consecutive_skips = (self.consecutive_skips + 1) * bad
        self.optimizer.step(learning_rate(self.config, self.step), skip=bad)
        self.step += 1
        self._update_ema()
        return loss, grad_norm

    def _update_ema(self) -> None:
        # A short average while the weights still change fast, as in Karras et al. (2024, arXiv 2312.02696) and earlier work.
        decay = min(self.config.optim.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), 1 - decay)

    def _backward(self, x: Tensor, share: Tensor, eps: Tensor, conditions: Conditions) -> Tensor:
        """The mean loss of the images; accumulates its gradient, averaged over all processes, in the parameters."""
        self.network.zero_grad()
        loss = torch.zeros((), device=x.device)
        for first in range(0, len(x), self._micro_batch):
            part = slice(first, first + self._micro_batch)
            last = first + self._micro_batch >= len(x)
            # The gradients of all parts but the last are only accumulated here.
            with nullcontext() if last or self._parallel is None else self._parallel.no_sync():
                own = {name: tensor[part] for name, tensor in conditions.items()}
                losses = self.loss(x[part], share[part], eps[part], self.step, **own)
                part_loss = losses.sum() / len(x)
                part_loss.backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
        return loss

    def _fitting_micro_batch(self, notify: Callable[[str], None]) -> int:
        """Images per pass: the preset's number, or as many as fit into memory in a trial."""
        wanted, whole = self.config.train.micro_batch, self.config.train.batch_size // self.distributed.size
        if wanted != "auto":
            return min(wanted or whole, whole)
        fitting = self.distributed.min(largest_batch(self, whole))
        notify(f"{fitting} images per pass")
        return fitting

    def _loss_weight(self, t: Tensor) -> Tensor | None:
        weight = LOSS_WEIGHTS[self.config.optim.loss_weight]
        return None if weight is None else weight(signal_share(self.family.process, self._variance, t)).to(t.dtype)

    def state(self, data: str) -> TrainingState:
        """Everything for an exact resume; `data` is the fingerprint of the images."""
        tensors: Tensors = {"spectrum": self.moments.second_moment, "mean": self.moments.mean, **self._tensors()}
        if self.moments.opponent_spectrum is not None:
            tensors["opponent"] = self.moments.opponent_spectrum
        tensors["health.restores"] = torch.tensor(self.restores)
        return TrainingState(self.config, self.step, data, tensors)

    def _tensors(self) -> Tensors:
        """Everything that changes in training, by name."""
        tensors: Tensors = {}
        averages = dict(self.ema.named_parameters())
        for name, parameter in self.network.named_parameters():
            tensors |= {f"net.{name}": parameter, f"ema.{name}": averages[name]}
        tensors |= self.optimizer.named_tensors()
        tensors |= {"health.skipped": self.skipped, "health.skipped_in_row": self.consecutive_skips}
        return tensors

    @classmethod
    def resume(
        cls,
        state: TrainingState,
        config: Config,
        path: Path,
        device: torch.device,
        distributed: DistributedContext = SINGLE_PROCESS,
        notify: Callable[[str], None] = lambda text: None,
        teacher: Weights | None = None,
    ) -> Trainer:
        """A trainer that continues from `state`, read from `path`.

        Raises:
            UserError: the state does not fit the configuration.
        """
        with torch.device("meta"):  # before any memory is allocated: a damaged file can claim a huge network
            check_fit(build_network(config), _parts(state)["net"], path)
        tensors = state.tensors
        try:
            opponent = tensors.get("opponent")
            moments = DataMoments(tensors["spectrum"], tensors["mean"], opponent, config.data.centered)
            trainer = cls(config, moments, device, distributed, notify, teacher)
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: {error}; the file is damaged") from None
        trainer.load(state, path)
        return trainer

    def load(self, state: TrainingState, path: Path) -> None:
        """Continue exactly from `state`, read from `path`.

        Raises:
            UserError: the state does not fit.
        """
        parts = _parts(state)
        check_fit(self.network, parts["net"], path)
        check_fit(self.network, parts["ema"], path)
        try:
            skipped, consecutive, restores = (parts["health"][k] for k in ("skipped", "skipped_in_row", "restores"))
            check_state(self.optimizer, state.tensors)
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: the state is incomplete ({error}); the file is damaged") from None
        self.network.load_state_dict(parts["net"])
        self.ema.load_state_dict(parts["ema"])
        load_state(self.optimizer, state.tensors)
        self.skipped, self.consecutive_skips = skipped.to(self.device), consecutive.to(self.device)
        self.restores, self.step = int(restores), state.step

    def synchronize(self) -> None:
        """Copy the training state of the main process to all processes."""
        if self.distributed.size == 1:
            return
        self.step, self.restores = self.distributed.broadcast(torch.tensor([self.step, self.restores])).tolist()
        with torch.no_grad():
            for tensor in self._tensors().values():
                tensor.copy_(self.distributed.broadcast(tensor))


def _broadcast_moments(moments: DataMoments, distributed: DistributedContext) -> DataMoments:
    """The moments of the main process; the other processes pass tensors of the same shape."""
    second_moment, mean = (distributed.broadcast(tensor) for tensor in (moments.second_moment, moments.mean))
    opponent = moments.opponent_spectrum
    if not distributed.broadcast(torch.tensor(opponent is not None)):
        return replace(moments, second_moment=second_moment, mean=mean, opponent_spectrum=None)
    opponent = torch.zeros_like(moments.second_moment) if opponent is None else opponent
    shared = distributed.broadcast(opponent)
    return replace(moments, second_moment=second_moment, mean=mean, opponent_spectrum=shared)


def _parts(state: TrainingState) -> dict[str, Tensors]:
    """The tensors of a state, grouped by their part of the training."""
    parts: dict[str, Tensors] = {"net": {}, "ema": {}, "health": {}}
    for full_name, tensor in state.tensors.items():
        part, _, name = full_name.partition(".")
        parts.setdefault(part, {})[name] = tensor
    return parts


def largest_batch(trainer: Trainer, most: int) -> int:
    """The largest batch of `most`, `most / 2`, ... that fits into memory, forward and backward; 1 is assumed to fit.

    Only GPUs report in time that memory is full.
    """
    size, config = most, trainer.config
    while size > 1:
        try:
            x = torch.zeros(size, config.data.channels, *config.data.image_size, device=trainer.device)
            call = mixed_precision(trainer.network, config, trainer.device)
            seeds = draw_dropout_seeds(size, trainer.device)
            call(x, torch.zeros(size, device=trainer.device), dropout_seeds=seeds).sum().backward()  # type: ignore[no-untyped-call]
            break
        except torch.OutOfMemoryError:
            size //= 2
        finally:
            trainer.network.zero_grad()
            if trainer.device.type == "cuda":
                torch.cuda.empty_cache()
    return size


def learning_rate(config: Config, step: int) -> float:
    """The learning rate of step `step`, counted from 0: linear warm-up, constant, then 1 / sqrt(step); times the cooldown.

    Without a cooldown it does not depend on the length of the training. A cooled training can be extended, too: its learning
    rate then rises to that of the longer one.
    """
    optim = config.optim
    warm = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    decay = 1.0 if optim.decay_from_step is None else max(1.0, (step + 1) / optim.decay_from_step) ** -0.5
    left = 1 - step / config.train.steps
    return optim.lr * warm * decay * min(1.0, left / optim.cooldown if optim.cooldown else 1.0)
