"""Distilling a trained model: runs, commands and messages."""

import html
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli, settings, shell
from PIL import Image

import blurcli as bd
from blurcli.config import DistillConfig, load_config
from blurcli.evaluate.denoising import MeasuredImages
from blurcli.families import ModelData
from blurcli.model.pipeline import Pipeline
from blurcli.model.weights import load_weights
from blurcli.training.losses import path_parts
from blurcli.training.trainer import Trainer
from blurcli.workflows.distillation import set_up


def test_parts_of_the_path_double() -> None:
    distill = DistillConfig(intervals=12, double_every_steps=10)
    assert [path_parts(distill, step) for step in (0, 9, 10, 19, 20, 30, 10**6)] == [2, 2, 4, 4, 8, 12, 12]


@pytest.fixture(scope="module")
def distilled_once(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distilled")
    shutil.copytree(trained_once, folder / "tiny")
    done = shell("distill", "tiny", *SHORT, cwd=folder)
    assert done.code == 0, done.err
    return folder


SHORT = ("--set", "train.steps=8", "--set", "train.save_every_steps=4", "--set", "distill.double_every_steps=2")


@pytest.fixture
def distilled(distilled_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run `tiny` and the run of its distilled model."""
    return Path(shutil.copytree(distilled_once, tmp_path_factory.mktemp("copy") / "runs"))


def test_a_distilled_model_is_a_run_like_any_other(cli: Cli, distilled: Path) -> None:
    run = distilled / "tiny-distilled"
    assert (run / "samples" / "step-00000008.png").is_file()
    weights = load_weights(run / "weights" / "step-00000008.safetensors")
    assert (weights.config.objective, weights.config.sample.sampler, weights.config.sample.steps) == ("consistency",) * 2 + (2,)
    teacher = load_weights(distilled / "tiny" / "weights" / "step-00000003.safetensors")
    assert any(not torch.equal(weights.network[name], teacher.network[name]) for name in teacher.network)
    for ours, theirs in zip(weights.data.moments.in_model_space(), teacher.data.moments.in_model_space(), strict=True):
        assert torch.equal(ours, theirs)
    done = cli("sample", "--run", run, "--n", 3, "--out", "x.npz", "--json")
    assert json.loads(done.out)["sampler"] == "consistency"
    for command in (
        ("fid", "--run", run, "--n", 4, "--force", "--features", "pixels"),
        ("sweep", "--run", run, "--steps", "1,2", "--n", 4, "--force", "--features", "pixels"),
        ("animate", "x.gif", "--run", run),
        ("sample", "--run", run, "--steps", 4, "--n", 2, "--init-image", run / "samples" / "step-00000008.png"),
        ("export", "x.safetensors", "--run", run),
        ("report", run),
    ):
        done = cli(*command)
        assert done.code == 0, (command, done.err)


def test_a_report_says_how_to_repeat_it(cli: Cli, distilled: Path) -> None:
    done = cli("report", distilled / "tiny-distilled", "--out", "report.html")
    assert done.code == 0, done.err
    page = Path("report.html").read_text(encoding="utf-8")
    assert "No map of errors: this model is distilled" in page
    assert "blurdiff distill runs/tiny-distilled/teacher.safetensors" in page
    for assignment in ("train.steps=8", "distill.double_every_steps=2", "seed=0", "optim.loss_weight", "data.flip"):
        assert f"--set {assignment}" in html.unescape(page).replace("--set '", "--set ")


def test_it_resumes_exactly(cli: Cli, distilled: Path) -> None:
    whole = load_weights(distilled / "tiny-distilled" / "weights" / "step-00000008.safetensors")
    done = cli("distill", distilled / "tiny", "--run", "again", *SHORT, "--set", "train.steps=4")
    assert done.code == 0, done.err
    done = cli("train", "--run", "again", "--set", "train.steps=8")
    assert done.code == 0, done.err
    resumed = load_weights(Path("again/weights/step-00000008.safetensors"))
    assert all(torch.equal(whole.network[name], tensor) for name, tensor in resumed.network.items())
    done = cli("distill", distilled / "tiny", "--run", "again", "--set", "train.steps=9")
    assert done.code == 0, done.err
    assert "continuing again from step 8" in done.err


def test_fast_is_the_model_that_was_distilled(cli: Cli, distilled: Path) -> None:
    run, own = distilled / "tiny", distilled / "tiny-distilled"
    done = cli("sample", "--run", run, "--fast", "--n", 2, "--out", "x.npz", "--json")
    assert json.loads(done.out)["weights"] == str(own / "weights" / "step-00000008.safetensors")
    done = cli("sample", "--run", own, "--fast", "--n", 2, "--out", "x.npz", "--json")
    assert json.loads(done.out)["weights"] == str(own / "weights" / "step-00000008.safetensors")
    shutil.rmtree(own)
    done = cli("sample", "--run", run, "--fast", "--n", 2)
    assert done.code == 2
    assert f"blurdiff distill {run}" in " ".join(done.err.split())
    done = cli("sample", "--weights", run / "weights" / "step-00000003.safetensors", "--fast")
    assert done.code == 2
    assert "--fast" in done.err


def test_fast_without_a_run_names_the_way(cli: Cli) -> None:
    done = cli("sample", "--fast", "--n", 1)
    assert done.code == 2
    assert "blurdiff distill RUN" in " ".join(done.err.split())


def test_fast_warns_of_a_run_that_trained_on(cli: Cli, distilled: Path) -> None:
    assert cli("train", "--run", distilled / "tiny", "--set", "train.steps=4").code == 0
    done = cli("sample", "--run", distilled / "tiny", "--fast", "--n", 1, "--out", "x.npz")
    assert done.code == 0, done.err
    assert "distilled from other weights" in " ".join(done.err.split())


@pytest.mark.parametrize("state", ["missing", "damaged", "link"])
def test_fast_does_not_need_the_teacher(cli: Cli, distilled: Path, state: str) -> None:
    run, own = distilled / "tiny", distilled / "tiny-distilled"
    teacher = own / "teacher.safetensors"
    if state == "damaged":
        teacher.write_bytes(b"damaged")
    else:
        teacher.unlink()
    if state == "link":
        assert cli("train", "--run", run, "--set", "train.steps=4").code == 0
        teacher.symlink_to(run / "weights" / "step-00000004.safetensors")
    for named in (run, own):
        done = cli("sample", "--run", named, "--fast", "--n", 1, "--out", "x.npz", "--json")
        assert json.loads(done.out)["sampler"] == "consistency", done.err
        assert ("distilled from other weights" in " ".join(done.err.split())) == (state == "link" and named == run)
    if state == "link":
        assert "not a distillation of" in " ".join(cli("distill", run, "--set", "train.steps=9").err.split())
    shutil.rmtree(run / "weights")
    assert cli("sample", "--run", run, "--fast", "--n", 1, "--out", "x.npz").code == 0


def test_the_advice_of_fast_works(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "my runs" / "it's"
    run.parent.mkdir()
    shutil.copytree(tiny_run, run)
    done = cli("sample", "--run", run, "--fast", "--n", 1)
    command = shlex.split(" ".join(done.err.split()).partition("distill it with: blurdiff ")[2])
    assert command == ["distill", str(run)]
    assert cli(*command, *SHORT).code == 0
    assert cli("sample", "--run", run, "--fast", "--n", 1, "--out", "x.npz").code == 0
    keys = settings("train.steps=1", "objective=eps")
    assert cli("train", "--preset", "shapes-blur", "--run", "other", *keys).code == 0
    refused = " ".join(cli("sample", "--run", "other", "--fast", "--n", 1).err.split())
    assert "only diffusion with objective spectral can be distilled" in refused
    assert "leave --fast out" in refused


def test_fast_goes_by_what_a_run_is_and_not_by_its_name(cli: Cli, distilled: Path) -> None:
    run, own = distilled / "tiny", distilled / "tiny-distilled"
    (distilled / "tiny-distilled").rename(distilled / "other")
    done = cli("sample", "--run", distilled / "other", "--fast", "--n", 1, "--out", "x.npz", "--json")
    assert json.loads(done.out)["sampler"] == "consistency"
    shutil.copytree(run, own)
    done = cli("sample", "--run", run, "--fast", "--n", 1)
    assert done.code == 2
    assert "has no distilled model" in " ".join(done.err.split())
    done = cli("sample", "--run", distilled / "mistyped", "--fast", "--n", 1)
    assert done.code == 2
    assert "no such run folder" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "--sampler", "abm"), "this model is distilled: use consistency"),
        (("likelihood",), "teacher.safetensors"),
        (("diagnose",), "teacher.safetensors"),
    ],
)
def test_what_needs_a_mean_is_refused(cli: Cli, distilled: Path, arguments: tuple[str, ...], message: str) -> None:
    done = cli(*arguments, "--run", distilled / "tiny-distilled")
    assert done.code == 2
    assert message in " ".join(done.err.split())


def test_ordinary_models_are_not_sampled_so(cli: Cli, distilled: Path) -> None:
    done = cli("sample", "--run", distilled / "tiny", "--sampler", "consistency")
    assert done.code == 2
    assert "consistency" in done.err
    assert "abm" in done.err


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.base_channels=16", "model.base_channels of its teacher, 8"),
        ("process.min_scale=0.01", "process.min_scale of its teacher, 0.001"),
        ("data.augment=0.1", "data.augment of its teacher, 0.0"),
        ("model={base_channels: 16}", "model.base_channels of its teacher, 8"),
        ("sample.sampler=abm", "for objective consistency it must be consistency"),
        ("objective=eps", "has objective consistency; leave it out"),
        ("train.steps=many", "train.steps"),
        ("distill.intervals=1", "distill.intervals"),
    ],
)
def test_keys_that_do_not_fit_are_refused(cli: Cli, distilled: Path, key: str, message: str) -> None:
    done = cli("distill", distilled / "tiny", "--run", "other", "--set", key)
    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert not Path("other").exists()


def test_what_cannot_be_distilled_is_refused(cli: Cli, distilled: Path) -> None:
    done = cli("distill", distilled / "tiny-distilled")
    assert done.code == 2
    assert "is already distilled" in " ".join(done.err.split())
    eps = settings("train.steps=1", "objective=eps")
    assert cli("train", "--preset", "shapes-blur", "--run", "eps", *eps).code == 0
    done = cli("distill", "eps")
    assert done.code == 2
    assert "diffusion with objective eps" in " ".join(done.err.split())
    done = cli(
        "train", "--preset", "shapes-blur", "--run", "new", *settings("objective=consistency", "sample.sampler=consistency")
    )
    assert done.code == 2
    assert "blurdiff distill MODEL" in " ".join(done.err.split())
    done = cli("bench", "--preset", distilled / "tiny-distilled" / "config.yaml")
    assert done.code == 2
    assert "trains with a teacher" in " ".join(done.err.split())
    done = cli("distill", "nothing")
    assert done.code == 2


def test_another_teacher_is_refused(cli: Cli, distilled: Path) -> None:
    assert cli("train", "--run", distilled / "tiny", "--set", "train.steps=4").code == 0
    done = cli("distill", distilled / "tiny", "--set", "train.steps=9")
    assert done.code == 2
    message = " ".join(done.err.split())
    assert "not a distillation of" in message
    run = distilled / "tiny-distilled"
    assert f"blurdiff train --run {run}" in message
    done = cli("train", "--run", run, "--set", "train.steps=9")
    assert done.code == 0, done.err


def test_a_folder_that_has_no_state_yet_is_begun_again(cli: Cli, distilled: Path) -> None:
    run = distilled / "tiny-distilled"
    for path in run.iterdir():
        if path.name != "config.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = cli("distill", distilled / "tiny", *SHORT)
    assert done.code == 0, done.err


def test_a_file_named_like_a_teacher_is_not_replaced(cli: Cli, distilled: Path) -> None:
    Path("own").mkdir()
    Path("own/teacher.safetensors").write_bytes(b"mine")
    done = cli("distill", distilled / "tiny", "--run", "own", *SHORT)
    assert done.code == 2
    assert Path("own/teacher.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_lost_teacher_is_written_again(cli: Cli, distilled: Path, content: bytes | None) -> None:
    run = distilled / "tiny-distilled"
    teacher = run / "teacher.safetensors"
    before = load_weights(teacher).digest
    teacher.unlink()
    if content is not None:
        teacher.write_bytes(content)
    done = cli("train", "--run", run, "--set", "train.steps=9")
    assert done.code in (1, 2)
    assert f"blurdiff distill MODEL --run {run}" in " ".join(done.err.split())
    done = cli("distill", "shapes", "--run", run, "--set", "train.steps=9")
    assert done.code == 2
    assert "not a distillation of" in " ".join(done.err.split())
    done = cli("distill", distilled / "tiny", "--set", "train.steps=9")
    assert done.code == 0, done.err
    assert load_weights(teacher).digest == before


def test_runs_are_named_after_what_is_distilled(distilled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = distilled / "tiny" / "weights" / "step-00000003.safetensors"
    named = {str(distilled / "tiny"): distilled, str(weights): distilled}
    for model, folder in named.items():
        assert set_up(model, "shapes", None, None).run.path == folder / "tiny-distilled"
    assert set_up("shapes", None, None, None).run.path == Path("runs/bundled-distilled")
    alone = shutil.copy(weights, distilled / "alone.safetensors")
    assert set_up(str(alone), "shapes", None, None).run.path == Path("runs/alone-distilled")
    monkeypatch.chdir(distilled)
    shutil.copytree("tiny", "shapes-blur")
    found = set_up("shapes-blur", None, None, None)
    assert (found.run.path, found.teacher.step) == (Path("shapes-blur-distilled"), 3)
    monkeypatch.chdir("tiny")
    assert set_up(".", None, None, None).run.path == distilled / "tiny-distilled"


def test_the_schedule_follows_the_steps_and_the_parts(distilled: Path) -> None:
    for assignments in (["train.steps=60", "distill.intervals=64"], ["train={steps: 60}", "distill={intervals: 64}"]):
        config = set_up(str(distilled / "tiny"), None, Path("new"), assignments).config
        assert config.train.steps == 60
        assert [path_parts(config.distill, step) for step in (0, 10, 50, 59)] == [2, 4, 64, 64]
        assert config.optim.warmup_steps == 3
        assert (config.optim.loss_weight, config.optim.lr) == ("consistency", load_config("shapes-blur").optim.lr / 2)


def test_images_must_be_named_and_of_the_same_classes(cli: Cli, distilled: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, names in (("known", "ab"), ("other", "bc")):
        for name in names:
            Path(folder, name).mkdir(parents=True)
            for i in range(8):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(Path(folder, name, f"{i}.png"))
    keys = settings("train.steps=1", "data.image_size=8", "data.classes=2", "train.batch_size=4")
    done = cli("train", "--preset", "shapes-blur", "--data", "known", "--run", "classes", *keys)
    assert done.code == 0, done.err
    done = cli("distill", Path("classes/weights/step-00000001.safetensors"), "--set", "train.steps=1")
    assert done.code == 2
    assert "does not name its training images" in " ".join(done.err.split())
    done = cli("distill", "classes", "--data", "other", "--set", "train.steps=1")
    assert done.code == 2
    assert "images of the same classes" in " ".join(done.err.split())
    assert cli("distill", "classes", "--data", "known", "--set", "train.steps=1").code == 0


def test_a_guided_teacher_is_distilled_without(cli: Cli, distilled: Path) -> None:
    keys = settings("train.steps=1", "data.classes=3", "data.shapes_objects=1", "sample.guidance=3")
    assert cli("train", "--preset", "shapes-blur", "--run", "guided", *keys).code == 0
    done = cli("distill", "guided", "--set", "train.steps=1")
    assert done.code == 0, done.err
    assert "sample.guidance 3" in " ".join(done.err.split())


def test_one_step_from_one_noise_is_one_image(cli: Cli, distilled: Path) -> None:
    run = distilled / "tiny-distilled"
    for steps, warned in ((1, True), (2, False)):
        done = cli("sample", "--run", run, "--same-init", "--steps", steps, "--n", 2, "--out", f"{steps}.npz")
        assert done.code == 0, done.err
        assert ("all images will be the same" in " ".join(done.err.split())) == warned


def test_sweeps_have_few_steps(cli: Cli, distilled: Path) -> None:
    run = distilled / "tiny-distilled"
    done = cli("sweep", "--run", run, "--n", 4, "--force", "--features", "pixels", "--json")
    assert done.code == 0, done.err
    assert [row["steps"] for row in json.loads(done.out)["rows"]] == [1, 2, 4]


def test_health_is_the_loss_of_the_distillation(cli: Cli, distilled: Path) -> None:
    """Before the first step the student is its teacher, whose estimate is the target at time 0, and nowhere else."""
    done = cli("distill", distilled / "tiny", "--run", "x", *SHORT, *settings("train.health_every_steps=4"))
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in Path("x/health.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8]
    weights = load_weights(distilled / "tiny" / "weights" / "step-00000003.safetensors")
    config = set_up(str(distilled / "tiny"), None, Path("y"), None).config
    trainer = Trainer(config, weights.data.moments, torch.device("cpu"), teacher=weights)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, *config.data.image_size), dtype=np.uint8)
    measured = Pipeline(config, trainer.ema, ModelData(trainer.moments), torch.device("cpu")), MeasuredImages(images, 2, 0)
    times, _ = trainer.loss.by_band(*measured, 9)
    assert lines[0]["times"] == pytest.approx(times.tolist())  # evenly on the path, as in training
    assert times[4] != pytest.approx(0.5, abs=1e-3)
    _, found = trainer.loss.by_band(*measured, 3)
    assert found[0].max() < 1e-7  # float32
    assert found[1:, 0].min() > 1e-6  # of the image mean; at t = 1 the signal of high frequencies is lost


def test_weights_alone_are_distilled(cli: Cli, distilled: Path) -> None:
    weights = distilled / "tiny" / "weights" / "step-00000003.safetensors"
    done = cli("distill", weights, *SHORT, "--data", "shapes", "--dry-run", "--json")
    assert done.code == 0, done.err
    config = json.loads(done.out)
    assert config["objective"] == "consistency"
    assert config["data"]["source"] == "shapes"


def test_classes_and_augmentation_reach_both_networks(cli: Cli, distilled: Path) -> None:
    keys = settings("train.steps=2", "data.classes=3", "data.shapes_objects=1", "data.augment=0.5", "model.dropout=0.1")
    assert cli("train", "--preset", "shapes-blur", "--run", "many", *keys).code == 0
    done = cli("distill", "many", "--set", "train.steps=4")
    assert done.code == 0, done.err
    done = cli("sample", "--run", "many-distilled", "--n", 3, "--class", "all", "--guidance", 2, "--out", "x.npz")
    assert done.code == 0, done.err


def test_in_python(distilled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []
    keys = {"distill.double_every_steps": 2, "train.save_every_steps": 4}
    model = bd.distill(distilled / "tiny", run=tmp_path / "new", steps=8, settings=keys, callback=seen.append)
    assert [line["step"] for line in seen] == list(range(1, 9))
    theirs = load_weights(distilled / "tiny-distilled" / "weights" / "step-00000008.safetensors")
    assert all(torch.equal(theirs.network[name], tensor) for name, tensor in load_weights(Path(model.path)).network.items())
    assert model.sample(2).source["sampler"] == "consistency"


def test_every_key_of_the_section_counts(cli: Cli, distilled: Path) -> None:
    found = {}
    for key in ("distill.intervals=16", "distill.intervals=2", "distill.double_every_steps=1"):
        done = cli("distill", distilled / "tiny", "--run", key, *SHORT, "--set", key)
        assert done.code == 0, done.err
        found[key] = load_weights(Path(key) / "weights" / "step-00000008.safetensors").network
    first = found.pop("distill.intervals=16")
    for other in found.values():
        assert any(not torch.equal(first[name], other[name]) for name in first)
