from __future__ import annotations

import pytest
import torch
from conftest import TINY, moments_of
from torch import Tensor, nn

from blurcli.config import load_config, parse_overrides
from blurcli.training import Trainer
from blurcli.training.muon import Muon, orthogonalized

CPU = torch.device("cpu")
GO, SKIP = torch.tensor(False), torch.tensor(True)


def weights(*shapes: tuple[int, ...]) -> dict[str, nn.Parameter]:
    return {str(i): nn.Parameter(torch.randn(shape)) for i, shape in enumerate(shapes)}


def set_gradients(parameters: dict[str, nn.Parameter], value: float | None = None) -> None:
    for parameter in parameters.values():
        parameter.grad = torch.randn_like(parameter) if value is None else torch.full_like(parameter, value)


def test_orthogonalized_keeps_the_singular_vectors() -> None:
    matrices = torch.randn(3, 20, 50) * torch.tensor([1e-6, 1.0, 1e6])[:, None, None]
    u, _, vh = torch.linalg.svd(matrices.double(), full_matrices=False)
    core = u.mT @ orthogonalized(matrices, 3.0).double() @ vh.mT
    values = core.diagonal(dim1=-2, dim2=-1)
    assert (values > 0.6 * 3).all()
    assert (values < 1.25 * 3).all()
    torch.testing.assert_close(core, torch.diag_embed(values), atol=1e-3, rtol=0)


def test_orthogonalized_is_the_iteration_of_the_paper() -> None:
    """Written as published, X <- a X + (b S + c S^2) X with S = X X^T, in float64."""
    matrices = torch.randn(2, 16, 40)
    x = matrices.double()
    x = x / torch.linalg.matrix_norm(x)[:, None, None]
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    torch.testing.assert_close(orthogonalized(matrices).double(), x, atol=1e-4, rtol=1e-3)


def test_a_gradient_of_zero_and_one_of_low_rank_stay_finite() -> None:
    low = torch.randn(1, 24, 1) @ torch.randn(1, 1, 60)
    assert torch.equal(orthogonalized(torch.zeros(1, 24, 60)), torch.zeros(1, 24, 60))
    assert torch.linalg.svdvals(orthogonalized(low))[0, 0].item() == pytest.approx(1, abs=0.35)
    assert torch.linalg.svdvals(orthogonalized(low))[0, 1:].max() < 0.1


def test_muon_is_that_of_pytorch() -> None:
    """Over several steps; PyTorch's computes in bfloat16."""
    ours = {
        name: nn.Parameter(weight.detach()[..., None, None]) for name, weight in weights((24, 24), (16, 64), (48, 20)).items()
    }
    theirs = [nn.Parameter(weight.detach()[..., 0, 0].clone()) for weight in ours.values()]
    before = [weight.detach().clone() for weight in theirs]
    own = Muon(ours, 0.9, 0.99)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        set_gradients(ours)
        for mine, other in zip(ours.values(), theirs, strict=True):
            assert mine.grad is not None
            other.grad = mine.grad[..., 0, 0].clone()
        own.step(0.1, GO)
        reference.step()
    for mine, other, start in zip(ours.values(), theirs, before, strict=True):
        difference = (mine[..., 0, 0] - other).norm() / (other - start).norm()
        assert difference < 0.02


def test_weights_are_matrices_of_outputs_by_inputs() -> None:
    """A weight (out, in, k, k) is updated like the matrix (out, in k^2), also where it has more rows than columns."""
    for outputs, inputs, side in ((16, 16, 3), (80, 16, 1), (16, 32, 1)):
        weight = nn.Parameter(torch.zeros(outputs, inputs, side, side))
        weight.grad = torch.randn_like(weight)
        Muon({"weight": weight}, 0.9, 0.99).step(1.0, GO)
        matrix = weight.grad.flatten(1)
        wide = matrix if outputs <= matrix.shape[1] else matrix.T
        expected = orthogonalized(wide[None], -0.2 * max(matrix.shape) ** 0.5)[0]
        torch.testing.assert_close(weight.detach().flatten(1), expected if wide is matrix else expected.T)


def test_weights_in_channels_last_order_are_updated_likewise() -> None:
    plain = weights((16, 16, 3, 3), (160, 16, 3, 3))
    other = {name: nn.Parameter(weight.detach().clone(memory_format=torch.channels_last)) for name, weight in plain.items()}
    optimizers = [Muon(parameters, 0.9, 0.99) for parameters in (plain, other)]
    for _ in range(3):
        set_gradients(plain)
        for name, weight in plain.items():
            assert weight.grad is not None
            other[name].grad = weight.grad.clone(memory_format=torch.channels_last)
        for optimizer in optimizers:
            optimizer.step(0.1, GO)
    for name, weight in plain.items():
        torch.testing.assert_close(other[name], weight)


def test_only_convolutions_of_some_width_are_matrices() -> None:
    parameters = weights((16, 16, 1, 1), (16, 15, 3, 3), (64, 64), (64,))
    names = set(Muon(parameters, 0.9, 0.99).named_tensors())
    assert {name for name in names if name.startswith("muon.")} == {"muon.momentum.0"}
    assert {name for name in names if name.startswith("adam.exp_avg.")} == {f"adam.exp_avg.{i}" for i in (1, 2, 3)}


def test_a_skipped_step_changes_nothing() -> None:
    parameters = weights((16, 16, 3, 3), (32, 16, 1, 1), (7,))
    muon = Muon(parameters, 0.9, 0.99)
    set_gradients(parameters)
    muon.step(0.1, GO)

    def state() -> list[Tensor]:
        return [tensor.detach().clone() for tensor in (*parameters.values(), *muon.named_tensors().values())]

    before = state()
    set_gradients(parameters, float("nan"))
    muon.step(0.1, SKIP)
    assert all(torch.equal(old, new) for old, new in zip(before, state(), strict=True))
    set_gradients(parameters)
    muon.step(0.1, GO)
    assert not any(torch.equal(old, new) for old, new in zip(before, state(), strict=True))
    assert all(tensor.isfinite().all() for tensor in state())


def test_the_preset_chooses_the_optimizer() -> None:
    kinds = {}
    for name in ("adam", "muon"):
        config = load_config("shapes-blur", parse_overrides([*TINY, f"optim.optimizer={name}"]))
        trainer = Trainer(config, moments_of(torch.ones(3, 8, 8)), CPU)
        kinds[name] = {tensor.split(".")[0] for tensor in trainer.state("").tensors} & {"adam", "muon"}
    assert kinds == {"adam": {"adam"}, "muon": {"adam", "muon"}}
