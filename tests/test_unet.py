import pytest
import torch

from blurcli.core import UNet
from blurcli.core.rng import ImageNoise, step_seed
from blurcli.core.unet import _Attention, _Dropout, draw_dropout_seeds


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


def test_attention_of_few_pixels_trains_in_fp32_under_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention, x = _Attention(16, None), torch.randn(2, 16, 4, 4)
    torch.nn.init.normal_(attention.project.weight, std=0.1)
    seen, attend = list[torch.dtype](), torch.nn.functional.scaled_dot_product_attention

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = attend(q, k, v)
        seen.append(result.dtype)
        return result

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", spy)
    with torch.autocast("cpu", torch.bfloat16):
        trained = attention(x)
        with torch.no_grad():
            sampled = attention(x)
    assert seen == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(trained, attention(x), atol=0.02, rtol=0.02)
    torch.testing.assert_close(trained.detach(), sampled, atol=0.02, rtol=0.02)


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


def test_dropout_is_an_images_own_whatever_the_batch() -> None:
    net = _randomised(dropout=0.5).train()
    x, t, seeds = torch.randn(5, 3, 8, 8), torch.rand(5), draw_dropout_seeds(5, torch.device("cpu"))
    whole = net(x, t, seeds)
    parts = torch.cat([net(x[part], t[part], seeds[part]) for part in (slice(0, 2), slice(2, 5))])
    torch.testing.assert_close(whole, parts)
    assert not torch.allclose(whole, net(x, t, seeds.flip(0)))
    assert not torch.allclose(net(x, t), net(x, t))  # seeds of its own
    torch.testing.assert_close(net.eval()(x, t, seeds), net(x, t))


def test_dropout_is_random_in_every_direction() -> None:
    """Masks of probability p: their rate, and the correlations of neighbours and of rectangles, which a weak hash would show."""
    torch.manual_seed(0)
    layer, other = (_Dropout(0.25, number).train() for number in (3, 4))
    ones, seeds = torch.ones(64, 32, 16, 16), torch.arange(64, dtype=torch.int32)  # seeds as alike as can be
    y = layer(ones, seeds)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    dropped = (y == 0).float()
    noise = (0.25 * 0.75 / dropped.numel()) ** 0.5
    assert abs(dropped.mean() - 0.25) < 4 * noise
    for dims in ((0, 2, 3), (0, 1), (1, 2, 3)):  # by channel, by pixel, by image: the spread of independent draws
        kept = [size for axis, size in enumerate(dropped.shape) if axis not in dims]
        expected = (0.25 * 0.75 * torch.tensor(kept).prod() / dropped.numel()) ** 0.5
        assert 0.8 < dropped.mean(dims).std() / expected < 1.2
    centred = (dropped - 0.25).flatten(2) / (0.25 * 0.75) ** 0.5
    again = ((other(ones, seeds) == 0).float() - 0.25).flatten(2) / (0.25 * 0.75) ** 0.5
    pixels, channels = torch.randperm(256), torch.randperm(32)
    products = {
        "neighbours": centred[..., 1:] * centred[..., :-1],
        "channels": centred[:, 1:] * centred[:, :-1],
        "images": centred[1:] * centred[:-1],
        "layers": centred * again,
        "rectangles": centred * centred[:, channels] * centred[..., pixels] * centred[:, channels][..., pixels],
    }
    for name, product in products.items():
        if name == "rectangles":
            product = product[:, channels != torch.arange(32)][..., pixels != torch.arange(256)]
        assert abs(product.mean()) < 5 * product.numel() ** -0.5, name


def test_checkpointed_activations_change_no_gradient() -> None:
    gradients = []
    for wanted in (False, True):
        net = _randomised(dropout=0.5).train()
        net.checkpoint_activations = wanted
        generator = torch.Generator().manual_seed(1)
        x, t = torch.randn(3, 3, 8, 8, generator=generator), torch.rand(3, generator=generator)
        net(x, t, torch.tensor([1, 2, 3], dtype=torch.int32)).square().sum().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
