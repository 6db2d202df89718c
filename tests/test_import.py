"""Checkpoints of other implementations: what is made of them computes what they compute; anything else is refused."""

import collections
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli, settings
from published import Shape, blurring_samples, heat_samples, save, state_of, unet
from torch import Tensor

import blurcli.importing
from blurcli.base.errors import UsageError
from blurcli.base.runs import Run
from blurcli.config import load_config, parse_overrides, preset_names
from blurcli.core import HeatDissipation
from blurcli.core.dct import dct2, idct2
from blurcli.families import Start
from blurcli.importing import Checkpoint, deduce_keys, fitting_preset, resolve
from blurcli.model.pipeline import Pipeline
from blurcli.model.weights import load_weights
from blurcli.visualize.trajectories import AnimatedProcess, View, forward_trajectory

CPU = torch.device("cpu")
SMALL = Shape()
DEEP = Shape(multipliers=(1, 2, 1), blocks=2, attention=(0, 2))
GRAY = Shape(channels=1, multipliers=(1, 1), attention=())


def command(shape: Shape, preset: str, *assignments: str) -> list[str]:
    own = ["data.image_size=8", *shape.keys(), *assignments]
    return ["import", "checkpoint.pth", "--preset", preset, *(part for one in own for part in ("--set", one))]


BLURRING = command(SMALL, "cifar10-blur-paper")
HEAT = command(SMALL, "cifar10-heat", "process.levels=5", "sample.steps=5", "process.blur_sigma_max=4")


class Injected:
    """Noise from a list, whatever image it is for."""

    def __init__(self, parts: Sequence[Tensor], start: Tensor | None = None) -> None:
        self._parts, self._start = list(parts), start

    def pick(self, bank: Tensor) -> Tensor:
        assert self._start is not None
        return dct2(self._start)

    def __call__(self, like: Tensor) -> Tensor:
        return self._parts.pop(0).to(like)


def loaded(path: str = "checkpoint.safetensors") -> Pipeline:
    return Pipeline.from_weights(load_weights(Path(path)), CPU)


def sampled(pipeline: Pipeline, noise: Callable[[Sequence[int]], Any]) -> Tensor:
    """Two images in [0, 1]."""
    (images,) = pipeline.generate(2, 0, start=Start(noise=noise), batch_size=2)
    return (images + 1) / 2


@pytest.mark.parametrize("shape", [SMALL, DEEP, GRAY], ids=["small", "deep", "gray"])
def test_the_network_is_the_same_function(cli: Cli, shape: Shape) -> None:
    parameters = save(Path("checkpoint.pth"), shape)
    assert cli(*command(shape, "cifar10-blur-paper")).code == 0
    z, k = torch.rand(3, shape.channels, 8, 8), torch.tensor([1.0, 37.0, 100.0])
    expected = unet(parameters, z.double(), k.double())
    with torch.inference_mode():
        found = loaded().network(z, k / 100)
    assert expected.std() > 0.1
    # Float32 against float64.
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("legacy", [False, True])
def test_several_attention_heads_in_both_orders(cli: Cli, legacy: bool) -> None:
    parameters = save(Path("checkpoint.pth"), DEEP)
    keys = ["--set", "model.head_channels=8", *(["--legacy-attention"] if legacy else [])]
    done = cli(*command(DEEP, "cifar10-blur-paper"), *keys)
    assert done.code == 0
    assert ("if theirs was False, add --legacy-attention" in " ".join(done.err.split())) == (not legacy)
    z, k = torch.rand(3, 3, 8, 8), torch.tensor([1.0, 37.0, 100.0])
    with torch.inference_mode():
        found = loaded().network(z, k / 100).double()
    same, other = (unet(parameters, z.double(), k.double(), 4, order) for order in (legacy, not legacy))
    torch.testing.assert_close(found, same, atol=1e-5, rtol=0)  # float32 against float64
    assert (found - other).abs().max() > 1e-3
    done = cli(*command(DEEP, "cifar10-blur-paper"), "--legacy-attention", "--out", "one.safetensors")
    assert (done.code, "--legacy-attention: is for several attention heads" in " ".join(done.err.split())) == (2, True)


def test_a_blurring_model_makes_the_same_images(cli: Cli) -> None:
    parameters = save(Path("checkpoint.pth"))
    assert cli(*BLURRING, "--set", "sample.steps=25", "--set", "process.blur_sigma_max=6").code == 0
    start, *noises = torch.randn(26, 2, 3, 8, 8, dtype=torch.float64)
    expected = blurring_samples(parameters, start, noises, 6)
    found = sampled(loaded(), lambda block: Injected([start, *map(idct2, noises)]))
    # Float32 against float64; under blur every step magnifies differences.
    assert expected.std() > 1
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_a_heat_model_makes_the_same_images(cli: Cli, photos: Path) -> None:
    parameters = save(Path("checkpoint.pth"))
    assert cli(*HEAT, "--data", photos).code == 0
    start, *noises = torch.rand(6, 2, 3, 8, 8, dtype=torch.float64)
    expected = heat_samples(parameters, start, noises, 0.0125)
    without = torch.zeros_like(start)  # theirs starts from blurred images without noise
    found = sampled(loaded(), lambda block: Injected([without, *noises], start.float()))
    assert expected.std() > 0.1
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_heat_model_starts_from_blurred_images(cli: Cli, photos: Path) -> None:
    """In [0, 1], as its network knows them."""
    save(Path("checkpoint.pth"))
    assert cli(*HEAT, "--data", photos).code == 0
    model = loaded()
    bank = model.model.data.extras["starts"].double()
    x = model.to_model_space(load_images(photos)).double()
    assert x.min() >= 0
    assert x.max() <= 1
    blurred = model.process.alpha(torch.ones(1, dtype=torch.float64)) * dct2(x)
    torch.testing.assert_close(bank, blurred[..., : bank.shape[-2], : bank.shape[-1]], atol=1e-6, rtol=0)
    assert model.process.noise == 0.01


def load_images(photos: Path) -> Any:
    from blurcli.data import load_dataset

    return load_dataset(str(photos), "train", (8, 8), 3).images


def test_the_ema_is_imported_unless_the_last_step_is_asked_for(cli: Cli) -> None:
    averages, last = SMALL.random(1), SMALL.random(0)
    save(Path("checkpoint.pth"))
    assert cli(*BLURRING).code == 0
    assert cli(*BLURRING, "--no-ema", "--out", "last.safetensors").code == 0
    for path, expected in (("checkpoint", averages), ("last", last)):
        found = load_weights(Path(f"{path}.safetensors"))
        assert torch.equal(found.network["first.weight"], expected["input_blocks.0.0.weight"])
        assert found.step == 3


def test_all_commands_work_with_an_imported_model(cli: Cli, photos: Path) -> None:
    save(Path("checkpoint.pth"))
    for how in (BLURRING, HEAT):
        out = "heat.safetensors" if how is HEAT else "blur.safetensors"
        assert cli(*how, "--set", "score.n=12", "--data", photos, "--out", out).code == 0
        weights = ("--weights", out)
        for use in (
            ("sample", "--n", "2", "--out", f"{out}.png"),
            ("animate", f"{out}.gif", "--n", "1", "--frames", "3"),
            (
                "animate",
                f"{out}-forward.gif",
                "--n",
                "1",
                "--frames",
                "3",
                "--direction",
                "forward",
                "--images",
                photos / "0.png",
            ),
            ("fid", "--features", "pixels", "--n", "12", "--data", photos),
            ("likelihood", "--n", "4", "--calls", "2", "--data", photos),
            ("export", f"{out}-half.safetensors"),
        ):
            done = cli(*use, *weights)
            assert done.code == 0 or "too few" in done.err, (use, done.err)


def test_without_training_images_only_what_needs_them_is_refused(cli: Cli, photos: Path) -> None:
    save(Path("checkpoint.pth"))
    done = cli(*BLURRING)
    assert done.code == 0
    assert "without --data" in done.err
    weights = ("--weights", "checkpoint.safetensors")
    assert cli("sample", "--n", "1", "--steps", "3", *weights).code == 0
    assert cli("sample", "--n", "1", "--steps", "3", "--sampler", "ddim", "--out", "ddim.png", *weights).code == 0
    for use in (
        ("sample", "--n", "1", "--sampler", "abm"),
        ("likelihood", "--n", "4", "--data", photos),
        ("diagnose", "--n", "4", "--data", photos),
    ):
        done = cli(*use, *weights)
        assert done.code == 2
        assert "import it again with --data, or sample with --sampler ancestral, ddim" in done.err
    done = cli(*HEAT, "--out", "heat.safetensors")
    assert done.code == 2
    assert "blurred training images, which a checkpoint does not hold: name these images with --data" in done.err
    assert not Path("heat.safetensors").exists()


PUBLISHED = {
    "cifar10": (Shape(3, 128, (1, 2, 2, 2), 4, (2, 3)), ["cifar10-blur-paper", "cifar10-heat"]),
    "mnist": (Shape(1, 128, (1, 2, 2), 4, (2,)), ["mnist-heat-paper"]),
    "small mnist": (Shape(1, 64, (1, 1, 1), 4, (2,)), ["mnist-heat-small"]),
    "afhq": (Shape(3, 128, (1, 2, 3, 4, 5), 3, (2, 3, 4)), ["afhq256-heat", "ffhq256-heat"]),
    "afhq 64": (Shape(3, 128, (1, 2, 3, 4), 2, (2, 3)), ["afhq-heat"]),
    "ffhq 128": (Shape(3, 128, (1, 2, 3, 4, 5), 2, (2, 3, 4)), ["ffhq-heat"]),
    "lsun": (Shape(3, 128, (1, 2, 3, 4, 5), 4, (2, 3, 4)), ["lsun-church-heat"]),
}


def unallocated(shape: Shape) -> Checkpoint:
    tensors = {name: torch.zeros(()).expand(size) for name, size in shape.parameters()}
    return Checkpoint(Path("c.pth"), tensors, 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_preset_is_chosen_by_the_network(name: str) -> None:
    shape, presets = PUBLISHED[name]
    checkpoint = unallocated(shape)
    if len(presets) == 1:
        assert fitting_preset(checkpoint) == presets[0]
    else:
        with pytest.raises(UsageError, match=f"fits several presets.* {' or '.join(presets)}"):
            fitting_preset(checkpoint)
    config = resolve(checkpoint, presets[-1])
    renamed = blurcli.importing.rename_parameters(checkpoint, config)
    assert sum(tensor.numel() for tensor in renamed.values()) == sum(t.numel() for t in checkpoint.network.values())
    assert config.model.time_scale == config.process.levels
    assert not config.data.centered
    if name == "cifar10":
        assert sum(tensor.numel() for tensor in renamed.values()) == 61_060_867
        assert resolve(checkpoint, presets[0]).model.time_scale == 100


def test_contradictions_name_both_sides() -> None:
    checkpoint = unallocated(PUBLISHED["mnist"][0])
    message = (
        r"c.pth: its network has data.channels 1, model.multipliers \[1, 2, 2\], model.attention_levels \[2\], and preset "
        r"cifar10-heat data.channels 3, model.multipliers \[1, 2, 2, 2\], model.attention_levels \[2, 3\]: use `preset` "
        r"mnist-heat-paper, or set what differs with `set` 'data.channels=1'"
    )
    with pytest.raises(UsageError, match=message):
        resolve(checkpoint, "cifar10-heat")
    with pytest.raises(UsageError, match=r"model.base_channels 128, and preset mnist-heat-paper model.base_channels 64"):
        resolve(checkpoint, "mnist-heat-paper", parse_overrides(["model.base_channels=64"]))
    with pytest.raises(
        UsageError, match=r"predicts another quantity \(objective: spectral\).*eps or residual.*mnist-heat-paper"
    ):
        resolve(checkpoint, "mnist-blur")
    with pytest.raises(UsageError, match=r"no preset has its network \(data.channels 3, .*`set` 'model.base_channels=32'"):
        fitting_preset(unallocated(SMALL))
    wide = unallocated(PUBLISHED["cifar10"][0])
    with pytest.raises(
        UsageError, match=r"unsupported variant of the guided-diffusion U-Net .*input_blocks.0.0.weight has the shape"
    ):
        blurcli.importing.rename_parameters(wide, resolve(wide, "cifar10-heat", parse_overrides(["model.patch_size=2"])))


def test_keys_over_the_conventions() -> None:
    checkpoint = unallocated(PUBLISHED["small mnist"][0])
    fewer = resolve(checkpoint, "mnist-heat-small", parse_overrides(["process.levels=9", "sample.steps=9"]))
    assert fewer.model.time_scale == 9
    assert resolve(checkpoint, "mnist-heat-small", parse_overrides(["model.time_scale=7"])).model.time_scale == 7
    assert resolve(checkpoint, "mnist-heat-small").train.precision == "fp32"


def test_old_configurations_are_as_they_were() -> None:
    for name in preset_names():
        config = load_config(name)
        assert (config.data.centered, config.model.time_scale, config.model.norm_groups) == (True, 1000.0, None)


def test_a_training_on_images_in_0_1_goes_on_as_it_began(cli: Cli) -> None:
    own = settings("data.centered=false", "objective=eps", "optim.loss_weight=paper", "optim.time_sampling=uniform")
    for run, lengths in (("at-once", [4]), ("in-parts", [2, 4])):
        for steps in lengths:
            assert cli("train", "--preset", "shapes-blur", "--run", run, *own, "--set", f"train.steps={steps}").code == 0
    one, other = (load_weights(Run(Path(run)).newest_weights()) for run in ("at-once", "in-parts"))
    assert blurcli.importing.equal_content(one, other)
    assert not other.data.moments.centered


def test_forward_animations_of_images_in_0_1() -> None:
    """The same noise, on images of half the contrast, is the same as twice the noise."""
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8)
    options = {"blur_sigma_max": 4.0, "levels": 9}
    both = [
        AnimatedProcess("half", HeatDissipation(8, noise=0.01, **options), centered=False),  # type: ignore[arg-type]
        AnimatedProcess("signed", HeatDissipation(8, noise=0.02, **options)),  # type: ignore[arg-type]
    ]
    half, signed = forward_trajectory(both, images, 0, View([0.0, 0.5, 1.0])).panels
    for one, other in zip(half.frames, signed.frames, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


class Code:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def changed(**changes: Any) -> dict[str, Any]:
    state = state_of(SMALL.random(0), SMALL.random(1))
    return {key: value for key, value in (state | changes).items() if value is not None}


def network_with(change: Callable[[dict[str, Tensor]], Any]) -> dict[str, Any]:
    network = SMALL.random(0)
    change(network)
    return state_of(network, network)


def scale_shift(network: dict[str, Tensor]) -> None:
    network["input_blocks.1.0.emb_layers.1.weight"] = torch.zeros(64, 128)


BAD: dict[str, tuple[Any, int, str]] = {
    "absent": (None, 2, "checkpoint.pth: no such file"),
    "text": (b"hello world\n" * 9, 1, "checkpoint.pth: not a readable checkpoint of PyTorch"),
    "empty": (b"", 1, "checkpoint.pth: not a readable checkpoint of PyTorch (EOFError)"),
    "a tensor": (torch.zeros(3), 2, "expected a checkpoint with the keys model, ema and step; found a Tensor"),
    "other keys": (
        {"weights": {}, "epoch": 1},
        2,
        "expected a checkpoint with the keys model, ema and step; found weights, epoch",
    ),
    "no tensors": (changed(model={"a": 1}), 2, "its model is not made of named tensors"),
    "no step": (changed(step=None), 2, "found optimizer, model, ema: save it again, where it can be loaded"),
    "no EMA": (changed(ema=None), 2, "has no EMA of the weights (ema.shadow_params), which images are sampled with; --no-ema"),
    "another EMA": (changed(ema={"shadow_params": [torch.zeros(3)]}), 1, "its EMA (1 tensors) does not fit its network (128"),
    "EMA of text": (changed(ema={"shadow_params": ["a"]}), 1, "its EMA is not a list of tensors"),
    "diverged": (changed(ema={"shadow_params": [t / 0 for t in SMALL.random(1).values()]}), 1, "is not finite"),
    "linear": (network_with(lambda n: [n.clear(), n.update(w=torch.zeros(2))]), 2, "not the U-Net of guided diffusion"),
    "scale and shift": (network_with(scale_shift), 2, "emb_layers.1.weight has the shape (64, 128) where (32, 128) would fit"),
    "classes": (network_with(lambda n: n.update({"label_emb.weight": torch.zeros(9)})), 2, "label_emb.weight is unknown"),
    "no attention": (network_with(lambda n: n.pop("middle_block.1.qkv.bias")), 2, "middle_block.1.qkv.bias is missing"),
    "uneven": (
        network_with(lambda n: n.update({"input_blocks.4.0.in_layers.2.weight": torch.zeros(9, 9, 3, 3)})),
        2,
        "widths [[32], [64, 9]] per level",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_checkpoint(cli: Cli, name: str) -> None:
    content, code, message = BAD[name]
    path = Path("checkpoint.pth")
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    refused(cli, code, message)


def refused(cli: Cli, code: int, message: str) -> None:
    before = sorted(Path().iterdir())
    done = cli(*BLURRING)
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert (done.code, done.out) == (code, "")
    assert message in lines[-1]
    assert len(lines) == 1
    assert sorted(Path().iterdir()) == before  # nothing written, nothing run


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_is_never_run(cli: Cli, tmp_path: Path, legacy: bool) -> None:
    state = changed(step=Code(tmp_path / "run"))
    torch.save(state, "checkpoint.pth", _use_new_zipfile_serialization=not legacy)
    name = f"{os.name}.mkdir"
    refused(
        cli, 2, f"checkpoint.pth: holds {name}, not only tensors and numbers, and is not read, because such objects can run"
    )


def test_harmless_objects_are_named(cli: Cli) -> None:
    torch.save(changed(args=collections.Counter(a=1), path=Path("x")), "checkpoint.pth")
    done = cli(*BLURRING)
    assert done.code == 2
    assert "torch.save({'model': state['model'], 'ema': state['ema'], 'step': int(state['step'])}, 'new.pth')" in done.err


def test_old_files_of_pytorch(cli: Cli) -> None:
    torch.save(changed(), "checkpoint.pth", _use_new_zipfile_serialization=False)
    assert cli(*BLURRING).code == 0


@pytest.mark.parametrize("part", [0.3, 0.99])
def test_a_truncated_file(cli: Cli, part: float) -> None:
    path = Path("checkpoint.pth")
    save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    refused(cli, 1, "checkpoint.pth: not a readable checkpoint of PyTorch")


def test_a_damaged_file(cli: Cli) -> None:
    path = Path("checkpoint.pth")
    save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(cli, 1, "does not match its checksum; it is damaged")


def test_a_file_that_is_there_is_kept(cli: Cli) -> None:
    save(Path("checkpoint.pth"))
    out = Path("checkpoint.safetensors")
    assert json.loads(cli(*BLURRING, "--json").out)["new"]
    before = out.read_bytes(), out.stat().st_mtime_ns
    again = cli(*BLURRING, "--json")
    assert (again.code, json.loads(again.out)["new"]) == (0, False)
    for other in (["--no-ema"], ["--set", "process.blur_sigma_max=3"]):
        done = cli(*BLURRING, *other)
        assert done.code == 2
        assert "checkpoint.safetensors: already exists with another content; use another name with --out" in done.err
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before
    out.write_text("mine")
    assert cli(*BLURRING).code == 2
    assert out.read_text() == "mine"
    assert cli(*BLURRING, "--out", "weights.pt").code == 2


def test_a_full_disk(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    save(Path("checkpoint.pth"))
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda folder: usage(1, 1, 1000))
        refused(cli, 1, "checkpoint.safetensors: needs about 3 MiB, and 0 MiB are free; choose another disk")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("blurcli.base.checkpoint.save_file", full)
    done = cli(*BLURRING)
    assert done.code == 1
    assert "checkpoint.safetensors: cannot be written (No space left on device): free disk space" in done.err
    assert [path.name for path in Path().iterdir()] == ["checkpoint.pth"]


def test_deduced_keys_are_those_of_the_network() -> None:
    assert deduce_keys(unallocated(DEEP)) == {
        "data.channels": 3,
        "model.base_channels": 32,
        "model.multipliers": [1, 2, 1],
        "model.blocks_per_level": 2,
        "model.attention_levels": [0, 2],
    }
