"""A network in training: its state, and one step."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from blurcli.checkpoint import State, Tensors, check_fit
from blurcli.config import Config, OptimConfig
from blurcli.core import Denoiser, UNet
from blurcli.core.denoiser import reference_gaussian, signal_share
from blurcli.core.rng import step_seed
from blurcli.errors import UserError
from blurcli.model import build_denoiser, build_network, build_process, memory_format, mixed_precision

_BALANCE = 0.1


class Trainer:
    """A network in training: parameters, their moving average, the optimizer, and the number of steps done.

    Args:
        config: the resolved preset.
        spectrum: mean squared DCT coefficient of the data.
        mean: mean DCT coefficient of the data.
        device: where it runs.

    Attributes:
        step: training steps done, skipped ones included.
        skipped: steps whose loss or gradient was not finite and that changed nothing, a count on the device.
        skipped_in_row: the last of them that followed each other, likewise.
        restores: how often the training went back to a saved state.
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
        self.restores = 0
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped_in_row = torch.zeros_like(self.skipped)

    def train_step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One step on a batch in [-1, 1]; returns the loss and the norm of the gradient, as scalars on the device.

        Where one of them is not finite, parameters and optimizer stay as they are. Everything random in a step follows from
        (seed, step, restores).
        """
        torch.manual_seed(step_seed(self.config.seed, self.step, self.restores))
        # Stratified times: as uniform as independent ones, with less variance.
        t = (torch.arange(len(x), device=x.device) + torch.rand(1, device=x.device)) / len(x)
        loss = (self.denoiser.loss(x, t, torch.randn_like(x)) * self._loss_weight(t)).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
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
        tensors |= {"health.skipped": self.skipped, "health.skipped_in_row": self.skipped_in_row}
        tensors["health.restores"] = torch.tensor(self.restores)
        return State(self.config, self.step, data, tensors)

    @classmethod
    def resume(cls, state: State, config: Config, path: Path, device: torch.device) -> Trainer:
        """A trainer that continues from `state` as if it had never stopped; UserError when the state does not fit."""
        parts: dict[str, Tensors] = {"net": {}, "ema": {}, "adam": {}, "health": {}}
        for full_name, tensor in state.tensors.items():
            part, _, name = full_name.partition(".")
            parts.setdefault(part, {})[name] = tensor
        with torch.device("meta"):
            network = build_network(config)
        check_fit(network, parts["net"], path)
        check_fit(network, parts["ema"], path)
        try:
            trainer = cls(config, state.tensors["spectrum"], state.tensors["mean"], device)
            trainer.skipped, trainer.skipped_in_row = (parts["health"][k].to(device) for k in ("skipped", "skipped_in_row"))
            trainer.restores = int(parts["health"]["restores"])
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: {error}; the file is damaged") from None
        trainer.network.load_state_dict(parts["net"])
        trainer.average.load_state_dict(parts["ema"])
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
