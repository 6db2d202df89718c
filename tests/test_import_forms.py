"""Checkpoints in the forms in which people save them: wrapped networks, steps and averages of many types, other containers."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import Shape, state_of
from torch import Tensor

from blurcli.base.errors import UserError
from blurcli.importing import deduce_keys, read_checkpoint

SHAPE = Shape(multipliers=(1,), attention=())
NETWORK, AVERAGES = SHAPE.random(0), SHAPE.random(1)
PATH = Path("checkpoint.pth")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(averaged: bool = True, **changes: Any) -> Any:
    torch.save(state_of(NETWORK, AVERAGES) | changes, PATH)
    return read_checkpoint(PATH, averaged)


def named(change: Callable[[str], str]) -> OrderedDict[str, Tensor]:
    return OrderedDict((change(name), tensor) for name, tensor in NETWORK.items())


WRAPPED = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled, in parallel": lambda name: f"module._orig_mod.{name}",
    "in parallel, compiled": lambda name: f"_orig_mod.module.module.{name}",
    "blocks compiled": lambda name: name.replace(".0.in_layers", "._orig_mod.0.in_layers"),
    "some in parallel": lambda name: f"module.{name}" if "block" in name else name,
    "sharded": lambda name: f"_fsdp_wrapped_module.{name.replace('.0.', '._checkpoint_wrapped_module.0.')}",
    "held by another": lambda name: f"model.net.{name}",
    "held and wrapped": lambda name: f"ema_model._orig_mod.module.{name}",
}


@pytest.mark.parametrize("name", WRAPPED)
def test_names_of_wrapped_networks(name: str) -> None:
    found = read(averaged=False, model=named(WRAPPED[name]))
    assert list(found.network) == list(NETWORK)
    assert all(torch.equal(found.network[key], NETWORK[key]) for key in NETWORK)
    assert deduce_keys(found)["model.base_channels"] == SHAPE.base


def test_two_networks_in_one_are_refused() -> None:
    with pytest.raises(UserError, match=r"its model holds time_embed.+ twice, once as module"):
        read(model=named(str) | named(lambda name: f"module.{name}"))
    with pytest.raises(UserError, match="not the U-Net of guided diffusion"):
        deduce_keys(read(averaged=False, model=named(lambda name: f"{'a' if 'out' in name else 'b'}.{name}")))


class BigEndian:
    """As pickled where numbers begin with their high byte."""

    dtype = np.dtype(">i8")

    def __reduce__(self) -> Any:
        return np.int64(7).__reduce__()[0], (self.dtype, bytes([*[0] * 7, 7]))


STEPS = [BigEndian(), 7, 7.0, torch.tensor(7), torch.tensor([7.0]), torch.tensor([[7]], dtype=torch.int16)]
STEPS += [kind(7) for kind in (np.int64, np.int32, np.uint8, np.float32, np.float64, np.float16)]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{type(step).__name__} {getattr(step, 'dtype', '')}")
def test_types_of_steps(step: Any, legacy: bool) -> None:
    torch.save(state_of(NETWORK, AVERAGES) | {"step": step}, PATH, _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(PATH).step
    assert (found, type(found)) == (7, int)


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        *(
            (7.5, "7.5"),
            (-1, "-1"),
            (float("nan"), "nan"),
            (float("inf"), "inf"),
            ("7", "'7'"),
            (True, "True"),
            (None, "a NoneType"),
        ),
        *((np.float32(0.5), "0.5"), (np.complex64(1), "a NoneType"), (np.bool_(True), "a NoneType"), ([7], "a list")),
        *((torch.tensor([7, 7]), "a Tensor"), (torch.tensor(7j), "a complex"), (torch.tensor(7, device="meta"), "a Tensor")),
    ],
    ids=repr,
)
def test_what_is_no_step(step: Any, shown: str) -> None:
    with pytest.raises(UserError) as error:
        read(step=step)
    assert f"checkpoint.pth: its step is {shown}, not a whole number of at least 0" in str(error.value)
    assert "'step': int(state['step'])" in str(error.value)


TENSORS = list(AVERAGES.values())
EMAS: dict[str, Any] = {
    "list": {"shadow_params": TENSORS},
    "tuple": {"shadow_params": tuple(TENSORS), "decay": 0.999, "num_updates": 5},
    "parameters": {"shadow_params": [torch.nn.Parameter(tensor) for tensor in TENSORS]},
    "the list alone": TENSORS,
    "the tuple alone": tuple(TENSORS),
    "a state dict": AVERAGES,
    "a wrapped state dict": {"n_averaged": torch.tensor(5)}
    | {f"module.{name}": tensor for name, tensor in reversed(AVERAGES.items())},
}


@pytest.mark.parametrize("name", EMAS)
def test_forms_of_averages(name: str) -> None:
    found = read(ema=EMAS[name]).network
    assert list(found) == list(NETWORK)
    assert all(torch.equal(found[key], AVERAGES[key]) and not found[key].requires_grad for key in NETWORK)


@pytest.mark.parametrize(
    ("ema", "message"),
    [
        *(({}, "has no EMA"), (None, "has no EMA"), ({"decay": 0.9}, "has no EMA")),
        *(
            (0.999, "its EMA is not a list of tensors"),
            ((0.999, 5, TENSORS), "its EMA is not a list of tensors; `no-ema` imports"),
        ),
        (dict(list(AVERAGES.items())[1:]), "does not fit its network"),
    ],
)
def test_what_are_no_averages(ema: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(ema=ema)


def test_types_of_tensors() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        found = read(averaged=False, model=OrderedDict((name, tensor.to(dtype)) for name, tensor in NETWORK.items())).network
        assert all(torch.equal(found[name], NETWORK[name].to(dtype).float()) for name in NETWORK)
    for change, kind in (
        (lambda tensor: tensor.to(torch.complex64), "torch.strided, torch.complex64, on cpu"),
        (lambda tensor: tensor.to(torch.int8), "torch.strided, torch.int8, on cpu"),
        (lambda tensor: tensor.to("meta"), "torch.strided, torch.float32, on meta"),
        (lambda tensor: tensor.to_sparse(), "torch.sparse_coo, torch.float32, on cpu"),
    ):
        last = next(reversed(NETWORK))
        for model, ema, averaged in (
            ((NETWORK | {last: change(NETWORK[last])}), AVERAGES, False),
            (NETWORK, AVERAGES | {last: change(AVERAGES[last])}, True),
        ):
            with pytest.raises(UserError) as error:
                read(averaged, model=model, ema=ema)
            assert f"checkpoint.pth: {last} is not a dense tensor of floating-point numbers ({kind})" in str(error.value)


@pytest.mark.parametrize(
    ("content", "found", "advice"),
    [
        (NETWORK, "time_embed.0.weight, time_embed.0.bias", "torch.save({'model': state, 'step': 0}, 'new.pth')"),
        (
            {"state_dict": named(lambda name: f"model.{name}"), "global_step": 7, "pytorch-lightning_version": "2"},
            "state_dict, global_step, pytorch-lightning_version:",
            "torch.save({'model': state['state_dict'], 'step': state['global_step']}, 'new.pth')",
        ),
        (
            {"state_dict": NETWORK, "epoch": 1},
            "state_dict, epoch:",
            "torch.save({'model': state['state_dict'], 'step': 0}, 'new.pth')",
        ),
        ({"model": NETWORK, "epoch": 1}, "model, epoch:", "torch.save({'model': state['model'], 'step': 0}, 'new.pth')"),
        ({}, "none", ""),
        ([1, 2], "a list", ""),
    ],
    ids=["bare", "lightning", "state_dict", "no step", "empty", "a list"],
)
def test_other_containers_and_what_to_do_with_them(content: Any, found: str, advice: str) -> None:
    torch.save(content, PATH)
    with pytest.raises(UserError) as error:
        read_checkpoint(PATH)
    assert f"expected a checkpoint with the keys model, ema and step; found {found}" in str(error.value)
    assert ("save it again" in str(error.value)) == bool(advice)
    assert advice in str(error.value)
    if advice:  # it works
        exec(advice, {"torch": torch, "state": torch.load(PATH)})
        assert list(read_checkpoint(Path("new.pth"), averaged=False).network) == list(NETWORK)
