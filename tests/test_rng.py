"""Sources of noise: each image's own, on the way between two, and shared."""

import itertools

import pytest
import torch

from blurcli.core.rng import ImageNoise, InterpolatedNoise, SharedNoise

LIKE = torch.empty(5, 3, 8, 8)


def rows(source: object, draws: int = 2) -> torch.Tensor:
    return torch.stack([source(LIKE) for _ in range(draws)])  # type: ignore[operator]


def test_interpolation_begins_and_ends_at_the_two_streams() -> None:
    between = rows(InterpolatedNoise((1, 0), (2, 7), 5, range(5)))
    one = torch.empty(1, 3, 8, 8)
    start, end = ImageNoise(1, [0]), ImageNoise(2, [7])
    for draw in between:
        assert torch.equal(draw[:1], start(one))
        torch.testing.assert_close(draw[-1:], end(one), rtol=0, atol=1e-6)


def test_interpolation_keeps_to_the_great_circle() -> None:
    between = InterpolatedNoise((1, 0), (2, 0), 5, range(5))(torch.empty(5, 3, 64, 64))
    flat = between.double().flatten(1)
    angles = [torch.acos(torch.cosine_similarity(a, b, dim=0)).item() for a, b in itertools.pairwise(flat)]
    assert angles == pytest.approx([angles[0]] * 4, rel=0.1)  # the norms of the ends differ by a percent or two
    assert sum(angles) == pytest.approx(torch.acos(torch.cosine_similarity(flat[0], flat[-1], dim=0)).item(), rel=1e-3)
    assert (flat.norm(dim=1) / flat[0].norm() - 1).abs().max() < 0.1  # a straight line would lose a third in the middle


def test_an_image_on_the_way_does_not_depend_on_its_batch() -> None:
    whole = rows(InterpolatedNoise((1, 0), (2, 0), 9, range(9)), 1)[0]
    part = rows(InterpolatedNoise((1, 0), (2, 0), 9, [3, 4]), 1)[0]
    assert torch.equal(part, whole[3:5])


def test_the_largest_seeds_are_seeds_of_their_own() -> None:
    one = torch.empty(1, 1, 4, 4)
    seeds = (0, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1)
    assert len({ImageNoise(seed, [3])(one).sum().item() for seed in seeds}) == len(seeds)


def test_one_start_for_all() -> None:
    first, second = rows(SharedNoise(ImageNoise(4, [0] * 5), ImageNoise(4, range(5))))
    own_first, own_second = rows(ImageNoise(4, range(5)))
    assert torch.equal(first, own_first[:1].expand_as(first))
    assert torch.equal(second, own_second)


def test_one_path_from_all_starts() -> None:
    first, second = rows(SharedNoise(ImageNoise(4, range(5)), ImageNoise(4, [0] * 5)))
    own_first, own_second = rows(ImageNoise(4, range(5)))
    assert torch.equal(first, own_first)
    assert torch.equal(second, own_second[:1].expand_as(second))


def test_uniform_numbers_are_those_of_the_image() -> None:
    together = ImageNoise(3, range(1000)).uniform()
    assert together.dtype == torch.float64
    assert torch.equal(ImageNoise(3, [17]).uniform(), together[17:18])
    assert 0 <= together.min() < 0.01
    assert 0.99 < together.max() < 1
