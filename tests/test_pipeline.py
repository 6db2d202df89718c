"""From weights to images: how many at a time, and what torch.compile has to do with it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import TINY, moments_of
from torch import Tensor, nn

from blurcli.config import Config, load_config, parse_overrides
from blurcli.families import ModelData
from blurcli.model.inference import CompileOrFallback, build_network
from blurcli.model.pipeline import Pipeline

CPU = torch.device("cpu")


def tiny_model(*options: str, notify: Callable[[str], None] = lambda text: None) -> Pipeline:
    config: Config = load_config("shapes-blur", parse_overrides([*TINY, "train.precision=fp32", *options]))
    torch.manual_seed(0)
    network = build_network(config).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    shape = (3, *config.data.image_size)
    return Pipeline(config, network, ModelData(moments_of(torch.full(shape, 0.3))), CPU, notify=notify)


def test_large_images_come_fewer_at_a_time() -> None:
    assert tiny_model().batch_size == 64
    assert tiny_model("data.image_size=256").batch_size == 4
    assert tiny_model("model.base_channels=256").batch_size == 16  # a large network; two calls
    assert tiny_model("data.image_size=[2048, 1024]").batch_size == 1
    assert tiny_model("data.image_size=256", "sample.batch_size=9").batch_size == 9


def test_a_batch_is_half_of_the_free_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    inference = tiny_model()._inference
    monkeypatch.setattr(inference, "_device", torch.device("cuda"))
    for name, value in {"memory_allocated": 100, "max_memory_allocated": 180, "mem_get_info": (1000, 2000)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    for name in ("reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    for name in ("zeros", "ones"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, device, make=make: make(*size))
    assert inference.batch_size == 32  # for images of 10 bytes each: 50


def test_a_network_that_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(network: nn.Module, **options: Any) -> Callable[..., Tensor]:
        def call(*arguments: Tensor) -> Tensor:
            raise RuntimeError("no compiler found\nand much more")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    said: list[str] = []
    plain, compiled = tiny_model(), tiny_model("sample.compile=true", notify=said.append)
    images = torch.cat(list(compiled.generate(3, seed=0)))
    assert torch.equal(images, torch.cat(list(plain.generate(3, seed=0))))
    assert len(said) == 2
    assert said[1] == "the network cannot be compiled here (no compiler found); continuing without compilation"


def test_the_graph_with_a_gradient_is_compiled_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a distillation, where the first call has none."""

    def failing(network: nn.Module, **options: Any) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise RuntimeError("no compiler found")
            return x + 1

        return call

    monkeypatch.setattr(torch, "compile", failing)
    said: list[str] = []
    network = CompileOrFallback(nn.Identity(), said.append)
    with torch.no_grad():
        assert network(torch.zeros(1)) == 1
    assert network(torch.zeros(1)) == 0
    assert len(said) == 2
    with torch.no_grad():
        assert network(torch.zeros(1)) == 0
    assert len(said) == 2


def test_memory_that_does_not_suffice_is_no_fault_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "compile", lambda network, **options: full)
    with pytest.raises(torch.OutOfMemoryError):
        CompileOrFallback(nn.Identity(), lambda text: None)(torch.zeros(1))


def test_a_compiled_network_is_called_as_the_plain_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    def compiled(network: nn.Module, dynamic: bool, mode: str) -> nn.Module:
        modes.append(mode)
        return network

    monkeypatch.setattr(torch, "compile", compiled)
    said: list[str] = []
    images = torch.cat(list(tiny_model("sample.compile=true", notify=said.append).generate(5, seed=0)))
    assert torch.equal(images, torch.cat(list(tiny_model().generate(5, seed=0))))
    assert (modes, len(said)) == (["default"], 1)
