"""The package in Python: what the command line gives, byte for byte, with its errors."""

import ast
import copy
import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Cli
from PIL import Image
from safetensors import safe_open

import blurcli as bd

SETTINGS = dict(assignment.split("=", 1) for assignment in TINY)


def test_importing_the_package_is_light() -> None:
    code = "import sys, blurcli; dir(blurcli); blurcli.__version__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "PIL", "rich", "pydantic", "yaml"}


def test_using_the_package_leaves_streams_and_warnings_alone() -> None:
    code = (
        "import sys, warnings, torch, torchvision, matplotlib, numpy, PIL.Image; errors, filters = sys.stdout.errors, warnings.filters[:];"
        "import blurcli as bd; bd.load('shapes'); from blurcli.data import images;"
        "own = [f for f in warnings.filters if f not in filters];"
        "assert (sys.stdout.errors, own) == (errors, []), (sys.stdout.errors, own)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_those_that_are_promised() -> None:
    assert {"load", "train", "score", "__version__"} <= set(dir(bd))
    for name in bd.__all__:
        assert getattr(bd, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        bd.laod  # noqa: B018


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, ()),
        ({"sampler": "ancestral", "steps": 3, "share_noise": True}, ("--sampler", "ancestral", "--steps", 3, "--share-noise")),
        ({"interpolate": 9, "final": "denoised"}, ("--interpolate", 9, "--final", "denoised")),
        ({"init_image": "photo.png", "strength": 0.4}, ("--init-image", "photo.png", "--strength", 0.4)),
    ],
)
@pytest.mark.parametrize("out", ["grid.png", "images.npz"])
def test_images_are_those_of_the_command_line(
    cli: Cli, tiny_run: Path, tmp_path: Path, options: dict[str, object], flags: tuple[object, ...], out: str
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "photo.png")
    done = cli("sample", "--run", tiny_run, "--n", 5, "--seed", 3, *flags, "--out", f"theirs-{out}")
    assert done.code == 0, done.err
    images = bd.load(tiny_run).sample(5, seed=3, **options)  # type: ignore[arg-type]
    assert images.save(f"ours-{out}") == Path(f"ours-{out}")
    assert (tmp_path / f"ours-{out}").read_bytes() == (tmp_path / f"theirs-{out}").read_bytes()


def test_models_can_be_copied_and_sent_to_other_processes(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    guide = tiny_run.parent / "guide.safetensors"
    assert cli("export", guide, "--run", tiny_run).code == 0
    model = bd.load(tiny_run, guide=guide)
    options = {"guidance": 3.0, "seed": 5}
    images = model.sample(3, **options)  # type: ignore[arg-type]
    (tmp_path / "pickled").write_bytes(pickle.dumps((model, images, bd.load(tiny_run).animate(1, frames=2))))
    shutil.rmtree(tiny_run)
    copied = copy.deepcopy(model)
    model.pipeline.network.requires_grad_(False).apply(lambda part: [one.zero_() for one in part.parameters()])
    assert (np.asarray(copied.sample(3, **options)) == images.array).all()  # type: ignore[arg-type]
    code = (
        "import pickle, sys, numpy; model, images, animation = pickle.load(open('pickled', 'rb'));"
        f"again = model.sample(3, **{options});"
        "assert (again.array == images.array).all() and again.source == images.source;"
        "assert repr(model) and len(animation.frames()) == 2"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_images_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    images, shown = bd.Images(np.zeros((4, 8, 8, 3), np.uint8)), []
    monkeypatch.setattr("PIL.ImageShow.show", lambda picture: shown.append(picture) or True)
    images.show()
    assert [picture.size for picture in shown] == [images.grid().size]
    monkeypatch.setattr("PIL.ImageShow.show", lambda picture: False)
    with pytest.raises(bd.UserError, match=r"no image viewer is installed; write a file with save"):
        images.show()
    notebook = types.SimpleNamespace(display=shown.append)
    monkeypatch.setitem(sys.modules, "ipykernel", notebook)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython", notebook)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)  # type: ignore[arg-type]
    images.show()
    assert shown[1:] == [images]


def test_progress_can_be_silenced(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = bd.load(tiny_run)
    try:
        bd.be_quiet()
        model.sample(1)
        assert capsys.readouterr() == ("", "")
    finally:
        bd.be_quiet(False)
    model.sample(1)
    assert "sampling 1 images" in capsys.readouterr().err


def test_a_photo_may_be_in_memory(tiny_run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    model = bd.load(tiny_run)
    expected = model.sample(2, init_image=tmp_path / "photo.png").array
    assert (model.sample(2, init_image=pixels).array == expected).all()
    assert (model.sample(2, init_image=Image.fromarray(pixels)).array == expected).all()


def test_a_folder_of_images_is_that_of_the_command_line(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    assert cli("sample", "--run", tiny_run, "--n", 3, "--out", "theirs").code == 0
    images = bd.load(tiny_run).sample(3)
    images.save("ours")
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == names
    for name in names:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    with pytest.raises(bd.UsageError, match=r"x.bmp: unknown suffix; use .png"):
        images.save("x.bmp")


def test_images_are_an_array_and_pictures() -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    images = bd.Images(array)
    assert np.shares_memory(np.asarray(images), array)
    assert np.array(images, float).dtype == float
    assert (len(images), images.shape, repr(images)) == (5, (5, 8, 6, 3), "Images(5 of 8x6)")
    assert [np.asarray(one).tolist() for one in images.images] == array.tolist()
    assert np.asarray(images[1]).tolist() == array[1].tolist()
    assert (images[1:3].array == array[1:3]).all()
    assert images._repr_png_().startswith(b"\x89PNG")
    assert images.grid(columns=5, scale=1).size == (5 * 7 - 1, 8)
    assert images.grid(columns=5).size == ((5 * 7 - 1) * 15, 8 * 15)  # about 512
    assert images[:1].grid().size == (6, 8)
    for wrong in (array[0], array.astype(float), array[..., :2], array[:0]):
        with pytest.raises(ValueError, match="uint8"):
            bd.Images(wrong)


def test_the_bundled_model_has_a_short_name(cli: Cli, tmp_path: Path) -> None:
    assert cli("sample", "--weights", "shapes", "--n", 2, "--steps", 2, "--out", "a.npz").code == 0
    with np.load(tmp_path / "a.npz") as stored:
        assert (bd.load("shapes").sample(2, steps=2).array == stored["arr_0"]).all()


@pytest.mark.parametrize(
    ("options", "look", "flags"),
    [
        ({}, {}, ()),
        ({"direction": "both", "show": "x_hat"}, {"fps": 5.0, "labels": True}, ("--direction", "both", "--show", "x_hat", "--fps", 5, "--labels")),
    ],
)  # fmt: skip
def test_an_animation_is_that_of_the_command_line(
    cli: Cli, tiny_run: Path, tmp_path: Path, options: dict[str, object], look: dict[str, object], flags: tuple[object, ...]
) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    Image.fromarray(photo[0]).save(tmp_path / "photo.png")
    n, given = 2, {}
    if options:
        n, given, flags = 1, {"images": photo}, (*flags, "--images", "photo.png")
    done = cli("animate", "theirs.gif", "--run", tiny_run, "--n", n, "--frames", 4, "--seed", 2, *flags)
    assert done.code == 0, done.err
    animation = bd.load(tiny_run).animate(n, seed=2, frames=4, **options, **given)  # type: ignore[arg-type]
    animation.save("ours.gif", **look)  # type: ignore[arg-type]
    assert (tmp_path / "ours.gif").read_bytes() == (tmp_path / "theirs.gif").read_bytes()
    assert set(animation._repr_mimebundle_()) == {"image/gif", "text/plain"}
    assert len(animation.frames()) == sum(len(one.times) for one in animation.trajectories)


def test_scores_are_those_of_the_command_line(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    flags = ("--features", "pixels", "--n", 12, "--force", "--steps", 2)
    theirs = json.loads(cli("fid", "--run", tiny_run, *flags, "--json").out)
    model = bd.load(tiny_run)
    ours = model.score(features="pixels", n=12, force=True, steps=2)
    changing = {"time", "seconds", "date", "sec", "weights"}
    assert {k: v for k, v in ours.items() if k not in changing} == {k: v for k, v in theirs.items() if k not in changing}
    assert len((tiny_run / "evaluations.jsonl").read_text().splitlines()) == 2
    images = model.sample(12, steps=2)
    images.save("images")
    stored = bd.score(images, "shapes", features="pixels", force=True)
    other = json.loads(cli("fid", "--samples", "images", "--data", "shapes", "--features", "pixels", "--force", "--json").out)
    assert stored["fd"] == other["fd"]
    with pytest.raises(bd.UsageError, match="no reference; name one with `data`"):
        bd.score(images, features="pixels", force=True)
    with pytest.raises(bd.UsageError, match="too few for the"):
        model.score(features="pixels", n=12)


def test_denoise_is_the_network_s_estimate(tiny_run: Path) -> None:
    model = bd.load(tiny_run)
    seen = []
    z = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    x = model.denoise(z, 0.5)
    assert x.shape == z.shape
    next(iter(model.pipeline.generate(2, 0, on_step=lambda i, t, z, x_hat: seen.append((t, z, x_hat)))))
    t, state, x_hat = seen[1]
    assert np.allclose(model.denoise(state, t), x_hat, atol=1e-4)
    with pytest.raises(bd.UsageError, match=r"`z` \(2, 3, 4, 4\): must be \(B, 3, 8, 8\)"):
        model.denoise(z[..., :4, :4], 0.5)
    with pytest.raises(bd.UsageError, match=r"`t` 1\.5: must be from 0 to 1"):
        model.denoise(z, 1.5)


def test_training_is_that_of_the_command_line(cli: Cli, tmp_path: Path) -> None:
    given = [part for assignment in TINY for part in ("--set", assignment)]
    done = cli("train", "--preset", "shapes-blur", "--run", "theirs", *given, "--set", "train.steps=3")
    assert done.code == 0, done.err
    seen: list[dict[str, object]] = []
    model = bd.train("shapes-blur", run="ours", steps=3, settings=typed(SETTINGS), callback=seen.append)
    assert [metrics["step"] for metrics in seen] == [1, 2, 3]
    assert model.run is not None
    assert (model.step, model.run.path) == (3, Path("ours"))
    with safe_open(model.path, "np") as ours, safe_open("theirs/weights/step-00000003.safetensors", "np") as theirs:
        assert ours.metadata() == theirs.metadata()  # with a checksum over all tensors
    assert bd.train(run="ours", steps=4).step == 4
    with pytest.raises(bd.UsageError, match="is already trained"):
        bd.train(run="ours")


def typed(settings: dict[str, str]) -> dict[str, object]:
    return {key: json.loads(value) for key, value in settings.items()}


def test_a_training_that_is_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def stop(metrics: dict[str, object]) -> None:
        if metrics["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt, match="after step 2; the same call continues"):
        bd.train("shapes-blur", run="r", steps=5, settings=typed(SETTINGS), callback=stop)
    assert bd.train("shapes-blur", run="r", steps=5, settings=typed(SETTINGS)).step == 5


def test_mistakes_are_named(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = bd.load(tiny_run)
    for call, problem in (
        (lambda: bd.load("absent.safetensors"), "absent.safetensors: no such file"),
        (lambda: bd.load(tmp_path), "has no weights yet"),
        (lambda: bd.load(tiny_run, device="tpu"), "tpu"),
        (lambda: model.sample(0), "`n` 0: must be at least 1"),
        (lambda: model.sample(1, seed=-1), "`seed` -1: must be from 0 to"),
        *(
            (partial(call, **{name: value}), f"`{name}` {value!r}: must be a whole number")
            for call, name, value in (
                *((model.sample, "seed", None), (model.sample, "n", 2.5), (model.sample, "n", None), (model.sample, "n", "4")),
                *((model.sample, "steps", 2.5), (model.sample, "batch_size", 1.5), (model.sample, "interpolate", "7")),
                *(
                    (model.sample, "n", True),
                    (model.animate, "frames", 3.5),
                    (model.animate, "seed", None),
                    (model.score, "n", 9.5),
                ),
                *((model.score, "seed", 0.5), (bd.train, "steps", 2.5)),
            )
        ),
        (lambda: model.sample(1, guidance="2"), "`guidance` '2': must be a number"),
        (lambda: model.sample(1, init_image=np.zeros((8, 8, 3))), "`init_image` of float64: must be uint8, 0..255"),
        *(
            (partial(model.animate, direction="forward", images=pixels), f"`images` {problem}")
            for pixels, problem in (
                (np.zeros((2, 8, 8, 3)), "of float64: must be uint8, 0..255: scale"),
                (np.zeros((8, 8, 3), np.uint8), "(8, 8, 3): must be (N, 8, 8, 3) uint8"),
                (np.zeros((0, 8, 8, 3), np.uint8), "(0, 8, 8, 3): must be (N, 8, 8, 3) uint8"),
            )
        ),
        (lambda: model.sample(1, steps=0), "`steps` 0: must be at least 1"),
        (lambda: model.sample(1, label="cat"), "`label` cat: this model has no classes"),
        (lambda: model.sample(1, sampler="abn"), "`sampler` abn: this model"),
        (lambda: model.sample(1, final="clean"), "`final` clean: must be one of noisy, denoised"),
        (lambda: model.sample(1, strength=0.5), "`strength`, `init_blurred`: apply to a photo; add `init_image`"),
        (lambda: model.sample(1, init_image="no.png"), "no.png: cannot be read"),
        (lambda: model.animate(1, direction="forward"), "`images`: required for direction forward and both"),
        (lambda: model.animate(1, direction="back"), "`direction` back: must be one of reverse, forward, both"),
        (lambda: model.animate(1, frames=1), "`frames` 1: must be at least 2"),
        (lambda: model.animate(1, frames=2).save("a.avi"), "unknown format of an animation"),
        (lambda: bd.train(), "train needs `data` FOLDER"),
        (lambda: bd.train("shapes-blur", settings={"optim.lrr": 1}), "optim.lrr: unknown key; did you mean 'optim.lr'"),
        (lambda: bd.train("shapes-blur", steps=0), "`steps` 0: must be at least 1"),
    ):
        with pytest.raises(bd.UserError) as error:
            call()  # type: ignore[no-untyped-call]
        assert problem in str(error.value)
        assert "--" not in str(error.value), str(error.value)
    with pytest.raises(TypeError, match=r"sample\(\) has no option 'stpes'; did you mean 'steps'"):
        model.sample(1, stpes=3)  # type: ignore[call-arg]


_DECIMAL = re.compile(r"\d+\.\d+")


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, in order, as a notebook runs them; pictures are where it shows some."""
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).parent.parent / "docs" / "python.ipynb"
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for cell in cells:
        *statements, last = ast.parse("".join(cell["source"])).body
        assert isinstance(last, ast.Expr)
        exec(compile(ast.Module(statements, []), str(path), "exec"), names)
        value = eval(compile(ast.Expression(last.value), str(path), "eval"), names)
        (output,) = cell["outputs"]
        shown = output["data"]
        if "image/png" in shown:
            assert value._repr_png_().startswith(b"\x89PNG")
        elif "image/gif" in shown:
            assert "image/gif" in value._repr_mimebundle_()
        else:
            texts = repr(value), "".join(shown["text/plain"]).replace("\n ", "")
            # The last digits depend on the machine, and the more on whether it has bf16.
            found, stored = ([float(number) for number in _DECIMAL.findall(text)] for text in texts)
            assert isinstance(value, dict) or (
                _DECIMAL.sub("", texts[0]) == _DECIMAL.sub("", texts[1]) and found == pytest.approx(stored, rel=0.02)
            )
    assert {file.name for file in tmp_path.iterdir()} == {"grid.png", "process.gif", "runs"}
