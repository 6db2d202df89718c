"""Augmentation of training images, on which the network is conditioned."""

import math

import pytest
import torch
from conftest import Cli, settings
from torch import Tensor

from blurcli.core import UNet
from blurcli.core.augment import LABEL_SIZE, augment, draw_augment_labels


def images(count: int = 3, height: int = 16, width: int = 16) -> Tensor:
    """Smooth, so that interpolation hardly changes them, and without symmetry."""
    noise = torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").tanh()


def labels(count: int, **parts: float) -> Tensor:
    names = ["mirrored", "upside_down", "scale", "cos", "sin", "stretch_cos", "stretch_sin", "down", "right"]
    return torch.tensor([[parts.get(name, 0.0) for name in names]]).repeat(count, 1)


def test_no_change_is_none() -> None:
    x = images()
    assert torch.equal(augment(x, labels(3)), x)
    assert not draw_augment_labels(100, 0.0, x.device).any()


@pytest.mark.parametrize("size", [(16, 16), (8, 16)])
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"mirrored": 1}, lambda x: x.flip(-1)),
        ({"upside_down": 1}, lambda x: x.flip(-2)),
        ({"cos": -2}, lambda x: x.flip(-1, -2)),
        ({"down": 0.25}, lambda x: x.roll(x.shape[-2] // 4, -2)),
        ({"right": 0.25}, lambda x: x.roll(x.shape[-1] // 4, -1)),
    ],
)
def test_changes_are_what_they_are_called(size: tuple[int, int], parts: dict[str, float], expected) -> None:  # type: ignore[no-untyped-def]
    x = images(3, *size)
    changed, wanted = augment(x, labels(3, **parts)), expected(x)
    inner = (..., slice(size[0] // 4, None), slice(size[1] // 4, None))  # what moved in from beyond the edges is mirrored
    torch.testing.assert_close(changed[inner], wanted[inner], atol=1e-5, rtol=0)


def test_turns_scales_and_stretches() -> None:
    x = images(2)
    quarter = augment(x, labels(2, cos=-1, sin=1))
    torch.testing.assert_close(quarter, x.rot90(-1, (-2, -1)), atol=1e-5, rtol=0)
    larger = augment(x, labels(2, scale=1))  # the middle half of every side fills it
    whole = torch.nn.functional.interpolate(x[..., 4:12, 4:12], scale_factor=2, mode="bicubic")
    torch.testing.assert_close(larger[..., 4:12, 4:12], whole[..., 4:12, 4:12], atol=0.02, rtol=0)
    # Stretched by an octave along the rows: twice as wide, half as high.
    wide = augment(x, labels(2, stretch_cos=1))
    both = torch.nn.functional.interpolate(x[..., :, 4:12], size=(16, 16), mode="bicubic")
    row = torch.nn.functional.interpolate(both, size=(8, 16), mode="bilinear", antialias=False)
    torch.testing.assert_close(wide[..., 5:11, 2:14], row[..., 1:7, 2:14], atol=0.12, rtol=0)
    there_and_back = augment(
        augment(x, labels(2, stretch_cos=0.1, stretch_sin=0.2)), labels(2, stretch_cos=-0.1, stretch_sin=-0.2)
    )
    torch.testing.assert_close(there_and_back[..., 4:12, 4:12], x[..., 4:12, 4:12], atol=0.08, rtol=0)


def test_each_kind_happens_as_often_as_asked() -> None:
    torch.manual_seed(0)
    changes = draw_augment_labels(4000, 0.3, torch.device("cpu"))
    assert changes.shape == (4000, LABEL_SIZE)
    shares = (changes != 0).float().mean(0)
    deviation = math.sqrt(0.3 * 0.7 / 4000)
    for part, share in {0: 0.15, 1: 0.15, 2: 0.3, 4: 0.3, 5: 0.3, 7: 0.3, 8: 0.3}.items():
        assert abs(float(shares[part]) - share) < 4 * deviation
    torch.testing.assert_close((changes[:, 3] + 1).square() + changes[:, 4].square(), torch.ones(4000))


def test_labels_reach_the_network_and_are_optional() -> None:
    torch.manual_seed(0)
    net = UNet(3, base_channels=8, multipliers=(1, 2), blocks_per_level=1, attention_levels=(), augmented=True).eval()
    torch.nn.init.normal_(net.last[-1].weight)
    for block in [module for module in net.modules() if hasattr(module, "conv_2")]:
        torch.nn.init.normal_(block.conv_2.weight)
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    unchanged = net(x, t, augment_labels=torch.zeros(2, LABEL_SIZE))
    assert torch.equal(net(x, t), unchanged)
    assert not torch.allclose(net(x, t, augment_labels=labels(2, mirrored=1)), unchanged)


def test_commands(cli: Cli) -> None:
    """A model that was trained so samples as any other."""
    train = cli("train", "--preset", "shapes-blur", "--run", "r", *settings("train.steps=2", "data.augment=0.5"))
    assert train.code == 0, train.err
    assert cli("sample", "--run", "r", "--n", 2, "--out", "x.png").code == 0
