"""`blurdiff fid` and `blurdiff results`: what is scored, by what protocol, and what is refused."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli, settings
from PIL import Image
from torch import Tensor

from blurcli.base.errors import UserError
from blurcli.evaluate import comparable, record, recorded, records, sampling_title, subject_of
from blurcli.evaluate.metrics import METRICS, TITLES, Metric


class FewPixels(torch.nn.Module):
    """Features few enough for a handful of images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@pytest.fixture
def few(tmp_path: Path) -> Path:
    path = tmp_path / "few.pt"
    torch.jit.script(FewPixels()).save(str(path))
    return path


def test_score_of_a_run_and_its_protocol(cli: Cli, tiny_run: Path, few: Path) -> None:
    command = ["fid", "--run", tiny_run, "--n", 50, "--seed", 3, "--features", few]
    done = cli(*command, "--name", "trial", "--json")
    assert done.code == 0, done.err
    score = json.loads(done.out)
    assert score["fd"] > 0
    assert "fid" not in score
    assert "kid" not in score
    expected = {
        "name": "trial",
        "n": 50,
        "seed": 3,
        "images": "0-49",
        "sampler": "abm",
        "steps": 2,
        "step": 3,
        "split": "train",
    }
    assert {key: score[key] for key in expected} == expected
    assert set(score) >= {"kd", "kd_std", "precision", "recall", "log_spectral_distance", "seconds", "hardware", "versions"}
    assert len(score["weights_sha256"]) == 16
    assert len(score["features_sha256"]) == 64
    assert (score["reference"], score["reference_images"], len(score["reference_hash"])) == ("shapes train", 64, 32)
    assert score["mode"] is None
    assert recorded(tiny_run / "evaluations.jsonl") == [score]
    assert (tiny_run / "spectrum-00000003.png").exists()
    text = cli(*command, "--plot", "s.svg")
    assert text.out.startswith(f"FD {score['fd']:.4f}  ({score['features']}; 50 images against 64 of shapes train)\nKD ")
    assert Path("s.svg").exists()


def test_score_depends_on_what_is_asked(cli: Cli, tiny_run: Path, few: Path, photos: Path) -> None:
    score = lambda *a: json.loads(cli("fid", "--run", tiny_run, "--n", 20, "--force", "--json", *a).out)["fd"]  # noqa: E731
    base = score()
    assert score() == base
    assert score("--batch-size", 3) == base
    for change in (
        ["--seed", 1],
        ["--steps", 5],
        ["--sampler", "ddim"],
        ["--sampler", "ddim", "--eta", 1],
        ["--split", "test"],
        ["--features", few],
        ["--data", photos],
        ["--n", 21],
    ):
        assert score(*change) != base, change


def test_repeats(cli: Cli, tiny_run: Path, few: Path) -> None:
    command = ["fid", "--run", tiny_run, "--n", 20, "--features", few]
    singles = [json.loads(cli(*command, "--seed", seed, "--json").out)["fd"] for seed in (1, 2, 3)]
    result = json.loads(cli(*command, "--seed", 1, "--repeats", 3, "--json").out)
    assert [score["fd"] for score in result["scores"]] == singles
    assert result["fd"] == pytest.approx(np.mean(singles))
    assert (result["fd_min"], result["fd_max"]) == (min(singles), max(singles))
    assert result["fd_std"] == pytest.approx(np.std(singles, ddof=1))
    assert result["seed"] == [1, 2, 3]
    assert len(recorded(tiny_run / "evaluations.jsonl")) == 6
    text = cli(*command, "--seed", 1, "--repeats", 3).out
    assert f"(mean of 3 seeds; minimum {min(singles):.4f}, standard deviation" in text


def test_a_score_names_the_weights_by_their_tensors(cli: Cli, tiny_run: Path, few: Path, tmp_path: Path) -> None:
    """Not by their file, whose metadata safetensors writes in any order; and not by the run that they came from."""
    train = ["train", "--preset", "shapes-blur", *settings("train.steps=3")]
    assert cli(*train, "--run", "same").code == cli(*train, "--run", "other", "--set", "seed=1").code == 0
    hashes = [
        json.loads(cli("fid", "--run", run, "--n", 8, "--features", few, "--json").out)["weights_sha256"]
        for run in (tiny_run, "same", "other")
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_is_found_out_before_the_work(cli: Cli, tiny_run: Path, photos: Path, few: Path, tmp_path: Path) -> None:
    """And what a file of images may be that cannot be read."""
    samples = ["fid", "--samples", "photos", "--data", "photos", "--features", few]
    for arguments, code, text in (
        (["--plot", "x.txt"], 2, "--plot x.txt: unknown format of a plot; end the name in .png, .svg or .pdf"),
        (["--run", "absent"], 2, "absent: not a run folder (it has no config.yaml)"),
        (["--split", "test"], 2, "has no sub-folders train and test"),
    ):
        done = cli(*samples, *arguments)
        assert done.code == code
        assert text in " ".join(done.err.split())
    last = cli("fid", "--run", tiny_run, "--seed", 2**64 - 1, "--repeats", 2)
    assert last.code == 2
    assert "the last seed must be below 2^64" in last.err
    assert "the last seed" in cli("sweep", "--run", tiny_run, "--seed", 2**64 - 1, "--seeds", 2).err
    (tiny_run / "evaluations.jsonl").mkdir()
    blocked = cli("fid", "--run", tiny_run, "--n", 10**9, "--features", few)
    assert blocked.code == 1
    assert "evaluations.jsonl: cannot be written (Is a directory)" in " ".join(blocked.err.split())
    with zipfile.ZipFile("odd.zip", "w") as archive:
        archive.write(photos / "0.png", "0.png")
    content = bytearray(Path("odd.zip").read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # says that it is encrypted
    Path("odd.zip").write_bytes(content)
    odd = cli("fid", "--samples", "photos", "--data", "odd.zip", "--features", few)
    assert odd.code == 1
    assert "odd.zip/0.png: cannot be read" in " ".join(odd.err.split())


def test_too_few_images_are_refused(cli: Cli, tiny_run: Path, photos: Path, few: Path, tmp_path: Path) -> None:
    refused = cli("fid", "--run", tiny_run, "--n", 192)
    assert refused.code == 2
    message = " ".join(refused.err.split())
    assert "--n 192: too few for the 192 features of pixels-8x8: the covariance of at most 192 images is singular" in message
    assert "use more images, or score anyway with --force" in message
    assert not (tiny_run / "evaluations.jsonl").exists()
    reference = cli("fid", "--run", tiny_run, "--n", 193)
    assert "shapes train: 64 images: too few" in " ".join(reference.err.split())
    forced = cli("fid", "--run", tiny_run, "--n", 20, "--force")
    assert forced.code == 0
    assert "warning: --n 20: too few" in forced.err
    assert cli("fid", "--run", tiny_run, "--n", 20, "--features", few).code == 0
    assert cli("sweep", "--run", tiny_run, "--n", 20).code == 2
    files = cli("fid", "--samples", photos, "--data", photos, "--features", "pixels")
    assert (files.code, "--n 10: too few" in files.err) == (2, True)


def test_a_score_that_is_no_number_is_refused(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) / 0 * 0

    torch.jit.script(Broken()).save(str(tmp_path / "nan.pt"))
    done = cli("fid", "--run", tiny_run, "--n", 8, "--features", tmp_path / "nan.pt")
    assert done.code == 1
    assert "are not finite" in done.err
    assert not (tiny_run / "evaluations.jsonl").exists()


# Existing images


def test_existing_images(cli: Cli, tiny_run: Path, photos: Path, tmp_path: Path) -> None:
    """A folder, a zip and an array of the same images get the same score, by any route to the reference."""
    assert cli("sample", "--run", tiny_run, "--n", 20, "--out", "folder").code == 0
    assert cli("sample", "--run", tiny_run, "--n", 20, "--out", "x.npz").code == 0
    shutil.make_archive("folder", "zip", "folder")
    keys = ("fd", "kd", "precision", "recall", "log_spectral_distance")
    model = json.loads(cli("fid", "--run", tiny_run, "--n", 20, "--force", "--json").out)
    for samples in ("folder", "folder.zip", "x.npz"):
        done = cli("fid", "--samples", samples, "--run", tiny_run, "--force", "--json")
        score = json.loads(done.out)
        assert [score[key] for key in keys] == pytest.approx([model[key] for key in keys], rel=1e-9), samples
        assert recorded(tiny_run / "evaluations.jsonl")[-1] == score
    itself = ["fid", "--samples", photos, "--data", photos, "--features", "pixels", "--force", "--json"]
    other = json.loads(cli(*itself).out)
    assert other["fd"] == pytest.approx(0, abs=1e-9)
    assert (other["precision"], other["recall"], other["log_spectral_distance"]) == (1, 1, 0)
    assert recorded(tmp_path / "runs" / "evaluations.jsonl") == [other]
    fewer = json.loads(cli(*itself, "--n", 5).out)
    assert (fewer["n"], fewer["samples_found"]) == (5, 10)


def test_existing_images_of_many_sizes(cli: Cli, photos: Path) -> None:
    Image.new("RGB", (40, 30)).save(photos / "large.png")
    command = ["fid", "--samples", photos, "--data", photos, "--features", "pixels", "--force", "--json"]
    refused = cli(*command)
    assert (refused.code, "use --size 12 to resize" in " ".join(refused.err.split())) == (2, True)
    score = json.loads(cli(*command, "--size", 16).out)
    assert (score["fd"], score["size"]) == (pytest.approx(0, abs=1e-9), [16, 16])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--samples", "photos"], "--samples: no reference; name one with --data"),
        (
            ["--samples", "photos", "--data", "photos", "--n", "11"],
            "--n 11: photos has 10 images; use at most 10",
        ),
        (["--samples", "photos/0.png", "--data", "photos"], "photos/0.png: is one image, also where it is a grid"),
        (["--samples", "photos", "--data", "photos", "--steps", "3"], "scores stored images; leave out --weights"),
        (["--samples", "photos", "--data", "photos", "--seed", "3"], "scores stored images; leave out --weights"),
        (["--samples", "photos", "--data", "photos", "--repeats", "3"], "scores stored images; leave out --weights"),
        (["--samples", "absent", "--data", "photos"], "absent: no such file or folder"),
        (["--samples", "photos", "--data", "absent"], "absent': no such folder, .zip file or dataset"),
        (["--samples", "absent.npz", "--data", "photos"], "absent.npz: no such file"),
        (["--size", "8"], "--size: resizes --samples"),
        (["--plot", "x.gif"], "unknown format of a plot; end the name in .png, .svg or .pdf"),
        (["--n", "1"], "Invalid value for '--n'"),
    ],
)
def test_wrong_usage(cli: Cli, tiny_run: Path, photos: Path, arguments: list[str], text: str) -> None:
    where = [] if "--samples" in arguments else ["--run", tiny_run, "--force"]
    done = cli("fid", *arguments, *where, *([] if "absent" in arguments[-1] else ["--features", "pixels"]))
    assert done.code == 2
    assert text in " ".join(done.err.split())


def test_a_weights_file_alone_does_not_name_its_data(cli: Cli, photos: Path, tmp_path: Path) -> None:
    assert cli("train", "--preset", "shapes-blur", "--data", photos, "--run", "r", *settings("train.steps=1")).code == 0
    weights = tmp_path / "r" / "weights" / "step-00000001.safetensors"
    done = cli("fid", "--weights", weights, "--n", 4, "--force")
    assert done.code == 2
    assert "name them with --data" in done.err
    assert cli("fid", "--weights", weights, "--n", 4, "--force", "--data", photos).code == 0
    assert cli("fid", "--run", "r", "--n", 4, "--force").code == 0


def test_to_uint8_rounds() -> None:
    from blurcli.model.pipeline import to_uint8

    values = torch.tensor([-2.0, -1.0, -1 + 0.6 / 127.5, 1 - 0.4 / 127.5, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 1, 255, 255, 255]


def test_evaluations_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        record(tmp_path / "absent" / "evaluations.jsonl", {})


# Scores while training


def test_training_scores_itself(cli: Cli, tmp_path: Path) -> None:
    keys = ["train.steps=4", "train.score_every_steps=2", "train.score_images=193", "data.shapes_count=200"]
    done = cli("train", "--preset", "shapes-blur", "--run", "r", *settings(*keys))
    assert done.code == 0, done.err
    scores = recorded(tmp_path / "r" / "evaluations.jsonl")
    assert [(score["step"], score["n"], score["name"]) for score in scores] == [(2, 193, "training"), (4, 193, "training")]
    assert f"step 4: FD {scores[1]['fd']:.4f} ({scores[1]['features']}, 193 images)" in done.err
    again = json.loads(cli("fid", "--run", "r", "--n", 193, "--features", "pixels", "--json").out)
    assert {key: again[key] for key in ("fd", "kd", "weights_sha256")} == {
        key: scores[1][key] for key in ("fd", "kd", "weights_sha256")
    }


def test_training_that_could_not_be_scored_does_not_begin(cli: Cli, tmp_path: Path) -> None:
    done = cli("train", "--preset", "shapes-blur", "--run", "r", *settings("train.score_every_steps=2"))
    assert done.code == 2
    assert "shapes train: 64 images: too few for the 192 features" in " ".join(done.err.split())
    assert "or set train.score_every_steps=null" in " ".join(done.err.split())
    assert [path.name for path in (tmp_path / "r").iterdir()] == [".lock"]


# blurdiff results


def line(**changes: object) -> dict:
    base = {"fd": 1.0, "kd": 0.1, "n": 100, "features": "pixels-8x8", "reference": "data", "reference_hash": "abc"}
    return {
        **base,
        "size": [8, 8],
        "run": "r",
        "weights_sha256": "w",
        "step": 5,
        "sampler": "abm",
        "steps": 20,
        "eta": 0.0,
        "seed": 0,
        **changes,
    }


def test_only_like_protocols_are_ranked_together() -> None:
    unlike = [{"n": 200}, {"features": "other"}, {"reference_hash": "def"}, {"size": [9, 9]}, {"fid": 3.0, "fd": None}]
    groups = comparable([line(), *(line(**change) for change in unlike), line(fd=0.5, sampler="ddim")])
    assert [len(group.rows) for group in groups] == [2, 1, 1, 1, 1, 1]
    assert [(row["sampler"], row["fd"]) for row in groups[0].rows] == [("ddim", 0.5), ("abm", 1.0)]
    assert [group.metric for group in groups] == ["fd", "fd", "fd", "fd", "fd", "fid"]
    bits = [line(fd=None, bits_per_dim=4.0, steps=steps) for steps in (None, 10)]
    assert [group.metric for group in comparable(bits)] == ["bits_per_dim"] * 2
    # What does not say what it was compared with compares with nothing; and a file may hold anything.
    strange = [{"reference_hash": None}, {"fd": float("nan")}, {"fd": float("inf")}, {"fd": 10**400}, {"fd": True}, {"n": "9"}]
    assert comparable([line(**change) for change in strange]) == []


def test_seeds_of_one_subject_are_one_row() -> None:
    (group,) = comparable([line(fd=1.0), line(fd=9.0, seed=1), line(fd=3.0, seed=1), line(fd=2.5, weights_sha256="other")])
    assert [(row["fd"], row["seeds"], row["min"]) for row in group.rows] == [(2.0, 2, 1.0), (2.5, 1, 2.5)]
    assert group.rows[0]["std"] == pytest.approx(2**0.5)
    assert group.rows[1]["std"] is None


def test_a_model_is_known_by_its_weights() -> None:
    """However their path is spelled, in whichever run they are recorded, and whatever the score is called."""
    spellings = [{"weights": "a.safetensors"}, {"weights": "./x/../a.safetensors"}, {"run": "s"}, {"name": "trial"}]
    (group,) = comparable([line(**change, seed=seed) for seed, change in enumerate(spellings)])
    (row,) = group.rows
    assert (row["seeds"], row["run"], row["weights"], row["name"]) == (4, "r", "a.safetensors", "trial")
    (group,) = comparable([line(name=name, seed=seed) for seed, name in enumerate(("a", "", "b", "a"))])
    assert [row["name"] for row in group.rows] == ["a, b"]


def test_images_from_files_are_known_by_path_and_name() -> None:
    files = {"weights_sha256": None, "sampler": None, "steps": None, "step": None, "seed": None}
    changes = [{"samples": "x.npz"}, {"samples": "y.npz"}, {"samples": "x.npz", "name": "again"}]
    (group,) = comparable([line(**files, **change) for change in changes])
    assert len(group.rows) == 3
    (group,) = comparable([line(**files, samples="x.npz", run=run) for run in ("r", "s")])
    assert len(group.rows) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "v"},
        {"step": 6},
        {"sampler": "ddim"},
        {"steps": 21},
        {"eta": 0.5},
        {"delta": 0.01},
        {"label": "cat"},
        {"guidance": 2.0},
        {"calibrated": True},
        {"features": "other"},
        {"reference_hash": "def"},
        {"size": [9, 9]},
        {"n": 200},
        {"calls": 8},
    ],
)
def test_what_tells_subjects_apart(change: dict) -> None:
    assert subject_of(line(**change)) != subject_of(line())
    assert subject_of(line(**change), across=list(change)) == subject_of(line(), across=list(change))
    assert sum(len(group.rows) for group in comparable([line(), line(**change)])) == 2
    settings = {"sampler", "eta", "delta", "label", "guidance", "calibrated"}
    assert (sampling_title(line(**change)) != sampling_title(line())) == (change.keys() <= settings)


def test_a_ranking_follows_the_direction_of_its_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = Metric("precision", "precision", higher_is_better=True, protocol=("features", "n"))
    monkeypatch.setattr(records, "RANKING", (ranking,))
    (group,) = comparable([line(precision=value, step=step) for step, value in enumerate((0.2, 0.9, 0.5))])
    assert [row["precision"] for row in group.rows] == [0.9, 0.5, 0.2]


def test_metrics_have_a_name_each() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert set(TITLES) < set(names)


def test_a_seed_does_not_tell_subjects_apart() -> None:
    assert subject_of(line(seed=0)) == subject_of(line(seed=1))


def test_scores_without_newer_keys_have_their_neutral_values() -> None:
    newer = {"eta": 0, "delta": None, "label": None, "guidance": 1.0, "calibrated": False}
    old = {key: value for key, value in line().items() if key != "eta"}
    assert subject_of(old) == subject_of(line(**newer))
    assert sampling_title(old) == sampling_title(line(**newer)) == "abm"
    (group,) = comparable([old, line(**newer, fd=3.0, seed=1)])
    assert [(row["fd"], row["seeds"]) for row in group.rows] == [(2.0, 2)]
    # Without a hash of the weights, path and run are all that is known of them.
    ancient = [{**old, "weights_sha256": None, "weights": path, "run": run} for path in ("a", "b") for run in ("r", "s")]
    (group,) = comparable(ancient)
    assert len(group.rows) == 4


def test_titles_mention_what_is_not_usual() -> None:
    score = line(sampler="heat", delta=0.0125, label="cat", guidance=2, calibrated=True)
    assert sampling_title(score) == "heat delta 0.0125 class cat guidance 2 calibrated"
    assert sampling_title(score, {"delta": 0.0125, "calibrated": True}) == "heat class cat guidance 2"
    assert sampling_title(line(sampler="heat", delta=0.02), score) == "heat delta 0.02 guidance 1 uncalibrated"


def test_bounds_of_heat_dissipation_and_of_diffusion_are_not_ranked_together() -> None:
    bound = {"fd": None, "bits_per_dim": 4.0, "steps": None, "calls": 8}
    groups = comparable([line(**bound), line(**bound, delta=0.01), line(**bound, delta=0.02), line(**bound, step=6)])
    assert [(group.metric, group.protocol["by_levels"], len(group.rows)) for group in groups] == [
        ("bits_per_dim", False, 2),
        ("bits_per_dim", True, 2),
    ]


def test_results_show_what_was_scored(cli: Cli, tiny_run: Path, photos: Path, few: Path, tmp_path: Path) -> None:
    nothing = cli("results")
    assert (nothing.code, nothing.err) == (0, "no scores yet; score the newest run with: blurdiff fid\n")
    shutil.copytree(tiny_run, tmp_path / "runs" / "a")
    for arguments in (["--repeats", 2], ["--sampler", "ddim"], ["--n", 9]):
        assert cli("fid", "--n", 8, "--features", few, *arguments).code == 0
    assert cli("likelihood", "--n", 4, "--calls", 2).code == 0
    assert cli("fid", "--samples", photos, "--data", photos, "--features", few).code == 0
    done = cli("results")
    blocks = done.out.split("\n\n")
    assert len(blocks) == 4
    assert sorted(block.split(":")[0].split()[0] for block in blocks) == ["FD", "FD", "FD", "bits/dim"]
    (block,) = [block for block in blocks if "8 images" in block]
    assert "reference shapes train (" in block
    shared, head, *rows, spread, left_out = block.splitlines()[1:]
    assert shared == "runs in runs/, run a, step 3, final denoised, 2 steps"
    assert head.split()[:3] == ["sampler", "FD", "n"]
    assert sorted((row.split()[0], row.count("±")) for row in rows) == [("abm", 1), ("ddim", 0)]
    assert spread == "±: standard deviation over n seeds of sampling, of the same weights"
    assert left_out.startswith("not shown: KD")
    assert any(str(photos) in block for block in blocks)
    told = json.loads(cli("results", "runs/a", "--json").out)
    assert [len(group["rows"]) for group in told["groups"]] == [2, 1, 1]
    assert cli("results", "absent").code == 2

    # Lines can hold anything.
    (tmp_path / "odd.jsonl").write_text(
        '{"fd": 1, "n": 1, "features": {}, "eta": [], "reference_hash": [], "name": 3, "sampler": 4, "samples": []}\n'
        '{"fd": 1, "n": 1, "features": {}, "eta": [], "reference_hash": 1, "name": 3, "sampler": 4, "samples": [5]}\n'
        '{"fd": 2, "n": 1, "features": {}, "eta": 7, "reference_hash": 1, "name": "\\ud800"}\n'
        '{"fd": 1, "n": [1]}\nnot json\n{"fd": "x"}\n[1]\n' + "[" * 200_000
    )
    assert len(json.loads(cli("results", "odd.jsonl", "--json").out)["groups"]) == 1
    assert cli("results", "odd.jsonl").code == 0
