"""A network in training: its state, and one step."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from blurcli.build import build_denoiser, build_network, build_process, learned_moments
from blurcli.checkpoint import State, Tensors, check_fit
from blurcli.config import Config, OptimConfig
from blurcli.core import Denoiser, HeatDissipation, UNet
from blurcli.core.augment import change, draw_changes
from blurcli.core.colours import to_opponent
from blurcli.core.denoiser import reference_gaussian
from blurcli.core.heat import ResidualPredictor
from blurcli.core.rng import step_seed
from blurcli.core.unet import draw_keys
from blurcli.core.weighting import LOSS_WEIGHTS, signal_share
from blurcli.core.whitened import WhitenedSpace
from blurcli.distributed import ALONE, Team
from blurcli.errors import UserError
from blurcli.network import Compiled, memory_format, mixed_precision

_GRID_CELLS = 512  # between which times are interpolated


class Trainer:
    """A network in training: parameters, their moving average, the optimizer, and the number of steps done.

    Args:
        config: the resolved preset.
        spectrum: mean squared DCT coefficient of the data; that of the team's first process counts.
        mean: mean DCT coefficient of the data, likewise.
        opponent: the spectrum in opponent colours, for a network that is to work in these; None for one that is not. Likewise.
        device: where it runs.
        team: the processes that train it together, each on its share of every batch.
        say: gets messages for a person.

    Attributes:
        step: training steps done, skipped ones included.
        skipped: steps whose loss or gradient was not finite and that changed nothing, a count on the device.
        skipped_in_row: the last of them that followed each other, likewise.
        restores: how often the training went back to a saved state.
    """

    def __init__(
        self,
        config: Config,
        spectrum: Tensor,
        mean: Tensor,
        device: torch.device,
        team: Team = ALONE,
        say: Callable[[str], None] = lambda text: None,
        opponent: Tensor | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device
        self.team = team
        self.spectrum, self.mean = (team.give(moment).to(device) for moment in (spectrum, mean))
        self.process = build_process(config)
        reference_gaussian(self.process, self.spectrum, self.mean)  # refuses what a damaged state may say
        self.opponent: Tensor | None = None
        if team.give(torch.tensor(opponent is not None)):
            self.opponent = team.give(torch.zeros_like(spectrum) if opponent is None else opponent).to(device)
        self.network: UNet = build_network(config).to(device).to(memory_format=memory_format(config, device))
        self.average: UNet = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.network.checkpoint_activations = config.train.checkpoint_activations
        self.optimizer = torch.optim.Adam(self.network.parameters(), betas=(0.9, config.optim.beta2), fused=True)
        self._parallel = None
        if team.size > 1:
            # Of 1x1 convolutions, whose layout is anything one likes.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            self._parallel = DistributedDataParallel(self.network, gradient_as_bucket_view=True)
        trained = self._parallel or self.network
        compiling = config.train.compile if config.train.compile is not None else device.type == "cuda"
        call = mixed_precision(Compiled(trained, say) if compiling else trained, config, device)
        self._conditions: tuple[Tensor | None, ...] = ()
        self.denoiser: Denoiser | ResidualPredictor = build_denoiser(
            config, lambda x, t: call(x, t, *self._conditions), *self.learned_moments
        )
        centre, self.variance = reference_gaussian(self.process, *self.learned_moments)
        self._grid: Tensor | None = None
        if config.optim.time_sampling == "path":
            times = WhitenedSpace(self.process, centre, self.variance).time_grid(_GRID_CELLS, 1.0)
            self._grid = torch.tensor(times[::-1], dtype=torch.float32, device=device)
        self.step = 0
        self.restores = 0
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped_in_row = torch.zeros_like(self.skipped)
        self._micro_batch = self._fitting_micro_batch(say)

    @property
    def learned_moments(self) -> tuple[Tensor, Tensor]:
        """Spectrum and mean in the colours in which the network works."""
        return learned_moments(self.spectrum, self.mean, self.opponent)

    @property
    def diverged(self) -> bool:
        """Whether so many steps in a row were skipped that the network is taken to be beyond repair; waits for the device."""
        return int(self.skipped_in_row) >= self.config.train.max_bad_steps

    def train_step(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step on this process's share of a batch, (B, C, H, W) in [-1, 1], with its classes, int64 (B,), or None.

        Where loss or gradient is not finite, parameters and optimizer stay as they are. Everything random in a step follows
        from (seed, step, restores) and an image's place in the batch: how that is divided changes nothing but the rounding.

        Returns:
            The loss of the whole batch and the norm of its gradient, scalars on the device.
        """
        torch.manual_seed(step_seed(self.config.seed, self.step, self.restores))
        count = len(x) * self.team.size
        # Stratified times: as uniform as independent ones, with less variance.
        t = self._times((torch.arange(count, device=x.device) + torch.rand(1, device=x.device)) / count)
        eps = torch.randn(count, *x.shape[1:], device=x.device)
        keys = draw_keys(count, x.device)
        own = self.team.share(count)
        if labels is not None:
            assert self.config.data.classes is not None
            untold = torch.rand(count, device=x.device) < self.config.optim.class_dropout
            labels = torch.where(untold[own], self.config.data.classes, labels)
        changes = None
        if self.config.data.augment:
            changes = draw_changes(count, self.config.data.augment, x.device)[own]
            x = change(x, changes)
        if self.opponent is not None:
            x = to_opponent(x)
        loss = self.team.mean(self._backward(x, t[own], eps[own], (keys[own], labels, changes)))
        grad_norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optim.grad_clip)
        bad = ~(loss.isfinite() & grad_norm.isfinite())
        self.skipped += bad
        self.skipped_in_row = (self.skipped_in_row + 1) * bad
        # As torch's GradScaler does it: the fused optimizer itself skips the step, and nobody waits for the device.
        self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.config.optim, self.step)
        self.optimizer.step()
        self.step += 1
        # A short average while the weights still move far, as in Karras et al. (2024, arXiv 2312.02696) and before.
        decay = min(self.config.optim.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        return loss, grad_norm

    def _backward(self, x: Tensor, t: Tensor, eps: Tensor, conditions: tuple[Tensor | None, ...]) -> Tensor:
        """The mean loss of the images; its gradient is left in the parameters, averaged over all processes.

        `conditions` are further arguments of the network, each (B, ...).
        """
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=x.device)
        for first in range(0, len(x), self._micro_batch):
            part = slice(first, first + self._micro_batch)
            last = first + self._micro_batch >= len(x)
            # The gradients of all parts but the last are only added up here.
            with nullcontext() if last or self._parallel is None else self._parallel.no_sync():
                self._conditions = tuple(None if each is None else each[part] for each in conditions)
                part_loss = self.denoiser.loss(x[part], t[part], eps[part], self._loss_weight(t[part])).sum() / len(x)
                part_loss.backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
        return loss

    def _fitting_micro_batch(self, say: Callable[[str], None]) -> int:
        """Images of one pass: as the preset says, or as many as memory holds in a trial."""
        wanted, whole = self.config.train.micro_batch, self.config.train.batch_size // self.team.size
        if wanted != "auto":
            return min(wanted or whole, whole)
        fitting = self.team.least(largest_batch(self, whole))
        say(f"{fitting} images in one pass")
        return fitting

    def _times(self, share: Tensor) -> Tensor:
        """The times at which shares (B,) in [0, 1] of all training images are looked at."""
        if isinstance(self.process, HeatDissipation):
            return self.process.level_above(share)
        if self._grid is None:
            return share
        place = share * (len(self._grid) - 1)
        cell = place.long().clamp(max=len(self._grid) - 2)
        return torch.lerp(self._grid[cell], self._grid[cell + 1], place - cell)

    def _loss_weight(self, t: Tensor) -> Tensor | None:
        name = self.config.optim.loss_weight
        if name == "paper":
            return None
        return LOSS_WEIGHTS[name](signal_share(self.process, self.variance, t)).to(t.dtype)

    def state(self, data: str) -> State:
        """Everything for an exact continuation; `data` is the fingerprint of the images."""
        tensors: Tensors = {"spectrum": self.spectrum, "mean": self.mean, **self._tensors()}
        if self.opponent is not None:
            tensors["opponent"] = self.opponent
        tensors["health.restores"] = torch.tensor(self.restores)
        return State(self.config, self.step, data, tensors)

    def _tensors(self) -> Tensors:
        """All that changes in training, by name."""
        tensors: Tensors = {}
        averages = dict(self.average.named_parameters())
        for name, parameter in self.network.named_parameters():
            tensors |= {f"net.{name}": parameter, f"ema.{name}": averages[name]}
            tensors |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        tensors |= {"health.skipped": self.skipped, "health.skipped_in_row": self.skipped_in_row}
        return tensors

    @classmethod
    def resume(
        cls,
        state: State,
        config: Config,
        path: Path,
        device: torch.device,
        team: Team = ALONE,
        say: Callable[[str], None] = lambda text: None,
    ) -> Trainer:
        """A trainer that continues from `state`, read from `path`; UserError when the state does not fit."""
        with torch.device("meta"):  # before any memory is taken: a file may say that it is huge
            check_fit(build_network(config), _parts(state)["net"], path)
        try:
            moments = state.tensors["spectrum"], state.tensors["mean"]
            trainer = cls(config, *moments, device, team, say, state.tensors.get("opponent"))
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: {error}; the file is damaged") from None
        trainer.load(state, path)
        return trainer

    def load(self, state: State, path: Path) -> None:
        """Go on from `state`, read from `path`, as if the training had never stopped; UserError when it does not fit."""
        parts = _parts(state)
        check_fit(self.network, parts["net"], path)
        check_fit(self.network, parts["ema"], path)
        try:
            skipped, in_row, restores = (parts["health"][k] for k in ("skipped", "skipped_in_row", "restores"))
            moments: dict[Tensor, dict[str, Tensor]] = {
                parameter: {
                    # Fused Adam reads memory in order: its moments must lie in memory as the parameter does.
                    **{
                        key: torch.empty_like(parameter).copy_(parts["adam"][f"{key}.{name}"])
                        for key in ("exp_avg", "exp_avg_sq")
                    },
                    "step": parts["adam"][f"step.{name}"].to(self.device),
                }
                for name, parameter in self.network.named_parameters()
            }
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{path}: the state is incomplete ({error}); the file is damaged") from None
        self.network.load_state_dict(parts["net"])
        self.average.load_state_dict(parts["ema"])
        self.optimizer.state.update(moments)
        self.skipped, self.skipped_in_row, self.restores = skipped.to(self.device), in_row.to(self.device), int(restores)
        self.step = state.step

    def follow(self) -> None:
        """Bring every process's training to where the first one's is."""
        if self.team.size == 1:
            return
        counts = torch.tensor([self.step, self.restores, len(self.optimizer.state)])
        self.step, self.restores, begun = self.team.give(counts).tolist()
        if begun and not self.team.leads:
            for parameter in self.network.parameters():
                step = torch.zeros((), device=self.device)
                moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {**moments, "step": step}
        with torch.no_grad():
            for tensor in self._tensors().values():
                tensor.copy_(self.team.give(tensor))


def _parts(state: State) -> dict[str, Tensors]:
    """The tensors of a state by what they belong to."""
    parts: dict[str, Tensors] = {"net": {}, "ema": {}, "adam": {}, "health": {}}
    for full_name, tensor in state.tensors.items():
        part, _, name = full_name.partition(".")
        parts.setdefault(part, {})[name] = tensor
    return parts


def largest_batch(trainer: Trainer, most: int) -> int:
    """The largest of `most`, `most / 2`, ... whose forward and backward pass fit in memory; 1 is taken to fit.

    Only a GPU says in time that it has none left.
    """
    size, config = most, trainer.config
    while size > 1:
        try:
            x = torch.zeros(size, config.data.channels, *config.data.image_size, device=trainer.device)
            call = mixed_precision(trainer.network, config, trainer.device)
            call(x, torch.zeros(size, device=trainer.device), draw_keys(size, trainer.device)).sum().backward()  # type: ignore[no-untyped-call]
            break
        except torch.OutOfMemoryError:
            size //= 2
        finally:
            trainer.network.zero_grad()
            if trainer.device.type == "cuda":
                torch.cuda.empty_cache()
    return size


def learning_rate(optim: OptimConfig, step: int) -> float:
    """The learning rate of step `step`, counted from 0: linear warm-up, constant, then 1 / sqrt(step).

    It does not depend on the length of the training, so that a run can be prolonged.
    """
    warm = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps else 1.0
    decay = 1.0 if optim.decay_from_step is None else max(1.0, (step + 1) / optim.decay_from_step) ** -0.5
    return optim.lr * warm * decay
