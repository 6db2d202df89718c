import pytest
import torch

from blurcli.core import UNet
from blurcli.core.rng import ImageNoise, step_seed


def test_the_published_shape() -> None:
    """61.06 M parameters: counted in the original implementation's own network for CIFAR-10."""
    with torch.device("meta"):
        assert UNet().parameter_count() == 61_060_867


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"channels": 1},
        {"patch_size": 2},
        {"head_channels": 4, "attention_levels": (0, 1)},
        {"multipliers": (1,), "attention_levels": ()},
        {"blocks_per_level": 3, "dropout": 0.5},
    ],
)
def test_every_option_gives_an_image_of_the_same_shape_and_trains(options: dict) -> None:
    small = {"base_channels": 8, "multipliers": (1, 2), "blocks_per_level": 1, "attention_levels": (1,)}
    net = UNet(**(small | options))
    x = torch.randn(2, options.get("channels", 3), 8, 12)
    output = net(x, torch.rand(2))
    assert output.shape == x.shape
    assert torch.all(output == 0)  # a new network predicts zero
    torch.optim.SGD(net.parameters(), lr=1.0).zero_grad()
    (output - x).square().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def _randomised(**options: object) -> UNet:
    torch.manual_seed(0)
    net = UNet(base_channels=8, multipliers=(1, 2), blocks_per_level=1, attention_levels=(1,), **options)  # type: ignore[arg-type]
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


def test_time_and_dropout_matter() -> None:
    net = _randomised(dropout=0.5)
    x = torch.randn(1, 3, 8, 8)
    assert not torch.equal(net(x, torch.tensor([0.1])), net(x, torch.tensor([0.1])))
    net.eval()
    assert torch.equal(net(x, torch.tensor([0.1])), net(x, torch.tensor([0.1])))
    assert not torch.equal(net(x, torch.tensor([0.1])), net(x, torch.tensor([0.2])))


def test_attention_sees_the_whole_image() -> None:
    """One level and no convolution that reaches across: only attention carries a far pixel."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 32)
    moved = x.clone()
    moved[..., -1, -1] += 1
    for levels, reaches in (((), False), ((0,), True)):
        net = UNet(base_channels=8, multipliers=(1,), blocks_per_level=1, attention_levels=levels, dropout=0.0).double()
        net.middle = torch.nn.ModuleList()
        for module in net.modules():
            if isinstance(module, torch.nn.GroupNorm):  # it, too, sees the whole image
                module.forward = lambda h: h  # type: ignore[method-assign]
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        change = (net(moved.double(), torch.zeros(1).double()) - net(x.double(), torch.zeros(1).double()))[..., 0, 0]
        assert bool(change.abs().max() > 0) == reaches


def test_refuses_sizes_that_do_not_halve() -> None:
    with pytest.raises(ValueError, match="multiples of 2"):
        _randomised()(torch.zeros(1, 3, 7, 8), torch.zeros(1))


def test_noise_of_an_image_does_not_depend_on_its_batch() -> None:
    like = torch.empty(4, 3, 5, 6)
    together = ImageNoise(7, range(4))
    first, second = together(like), together(like)
    assert not torch.equal(first, second)
    alone = ImageNoise(7, [2])
    assert torch.equal(alone(like[:1]), first[2:3])
    assert torch.equal(alone(like[:1]), second[2:3])
    assert not torch.equal(ImageNoise(8, [2])(like[:1]), first[2:3])
    assert not torch.equal(ImageNoise(2, [7])(like[:1]), first[2:3])


def test_noise_is_standard_normal() -> None:
    sample = ImageNoise(0, range(100))(torch.empty(100, 1, 32, 32))
    # 102,400 draws: mean and variance are known to 0.003 and 0.0045; four deviations.
    assert abs(sample.mean().item()) < 0.013
    assert abs(sample.var().item() - 1) < 0.018


def test_step_seeds_differ() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(100)}
    assert len(seeds) == 2000
    assert step_seed(3, 4) == step_seed(3, 4)
