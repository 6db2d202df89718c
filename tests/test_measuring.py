"""The commands that measure a model: likelihood, sweep, diagnose."""

import json
from pathlib import Path

import pytest
from conftest import Cli, settings


def test_likelihood_adds_up_and_is_recorded(cli: Cli, tiny_run: Path) -> None:
    arguments = ["likelihood", "--run", tiny_run, "--n", 20, "--calls", 4]
    score = json.loads(cli(*arguments, "--json").out)
    assert score["bits_per_dim"] == pytest.approx(score["prior"] + score["diffusion"] + score["reconstruction"])
    assert sum(score["bands"].values()) == pytest.approx(score["prior"] + score["diffusion"])
    assert 0 < score["standard_error"] < 1
    assert json.loads((tiny_run / "evaluations.jsonl").read_text().splitlines()[-1]) == score
    text = cli(*arguments)
    assert f"{score['bits_per_dim']:.4f}" in text.out
    assert "continuous time, 20 images of shapes train" in text.out
    for change in (["--steps", 10], ["--split", "test"], ["--seed", 1], ["--calls", 5], ["--n", 21]):
        assert json.loads(cli(*arguments, *change, "--json").out)["bits_per_dim"] != score["bits_per_dim"], change


def test_noise_is_less_likely_than_the_data(cli: Cli, tiny_run: Path, photos: Path) -> None:
    """The photos of the fixture are uniform noise, but shrunk: less of it."""
    own, noise = (
        json.loads(cli("likelihood", "--run", tiny_run, "--n", 10, "--calls", 4, "--json", *extra).out)["bits_per_dim"]
        for extra in ([], ["--data", photos])
    )
    assert noise > own


def test_sweep_scores_what_is_missing_and_shows_all(cli: Cli, tiny_run: Path) -> None:
    base = ["sweep", "--run", tiny_run, "--n", 20, "--force", "--json"]
    first = json.loads(cli(*base, "--steps", "2,3", "--samplers", "abm,ddim", "--seeds", 2).out)
    assert [(row["sampler"], row["steps"], row["seeds"]) for row in first["rows"]] == [
        ("abm", 2, 2),
        ("abm", 3, 2),
        ("ddim", 2, 2),
        ("ddim", 3, 2),
    ]
    assert all(row["min"] < row["mean"] < row["max"] for row in first["rows"])
    assert Path(first["out"]).exists()
    lines = (tiny_run / "evaluations.jsonl").read_text().splitlines()
    assert len(lines) == 8
    alone = json.loads(cli("fid", "--run", tiny_run, "--n", 20, "--force", "--sampler", "ddim", "--steps", 3, "--json").out)[
        "fd"
    ]
    assert alone in [json.loads(line)["fd"] for line in lines]

    # Nothing is scored twice; a score taken by `fid` counts too; another protocol does not.
    (tiny_run / "evaluations.jsonl").open("a").write("cut sh")
    more = cli(*base, "--steps", "3,4", "--samplers", "ddim")
    assert [(row["sampler"], row["steps"], row["seeds"]) for row in json.loads(more.out)["rows"]] == [
        ("ddim", 2, 1),
        ("ddim", 3, 1),
        ("ddim", 4, 1),
    ]
    assert more.err.count("FD") == 1
    assert cli(*base, "--steps", "4", "--samplers", "ddim").err.count("FD") == 0  # the cut line took no score with it
    other = cli(
        "sweep", "--run", tiny_run, "--n", 21, "--force", "--steps", 2, "--samplers", "abm", "--out", tiny_run / "s.svg"
    )
    assert other.out.splitlines()[1].split()[:2] == ["abm", "2"]
    assert "sweep" not in other.out
    assert (tiny_run / "s.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sweep", "--steps", "5,x"], "not a list of whole numbers from 1; write them with commas"),
        (["sweep", "--steps", "0"], "not a list of whole numbers from 1; write them with commas"),
        (["sweep", "--samplers", "abm,dimm"], "unknown sampler 'dimm'; did you mean 'ddim'?"),
        (["sweep", "--out", "s.gif"], "unknown format of a plot; end the name in .png, .svg or .pdf"),
        (["diagnose", "--out", "s.gif"], "unknown format of a plot; end the name in .png, .svg or .pdf"),
        (["diagnose", "--n", "65"], "--n 65: shapes train has 64 images; use at most 64"),
        (["likelihood", "--n", "65"], "--n 65: shapes train has 64 images; use at most 64"),
        (["likelihood", "--steps", "0"], "Invalid value for '--steps'"),
    ],
)
def test_what_the_measuring_commands_refuse(cli: Cli, tiny_run: Path, arguments: list[str], text: str) -> None:
    done = cli(*arguments, "--run", tiny_run)
    assert done.code == 2
    assert text in " ".join(done.err.split())
    assert not (tiny_run / "evaluations.jsonl").exists()


def test_a_model_of_noise_is_calibrated(cli: Cli, tmp_path: Path) -> None:
    """Raw, three steps of training leave errors that a division by alpha magnifies; calibrated, they do no harm."""
    path = ("process.blur_schedule=sin2", "process.blur_sigma_max=20")  # the paper's
    train = ["train", "--preset", "shapes-blur", "--run", "r", *settings("train.steps=3", "objective=eps", *path)]
    assert cli(*train).code == 0
    worst = []
    for extra in ([], ["--no-calibration"]):
        done = cli("diagnose", "--run", "r", "--n", 32, "--json", *extra)
        errors = json.loads(done.out)
        assert len(errors["relative_error"]) == len(errors["times"])
        worst.append(max(max(row) for row in errors["relative_error"]))
    assert worst[0] < 2
    assert worst[1] > 1e4
    assert [path.name for path in sorted((tmp_path / "r").glob("*.png"))] == [
        "diagnose-00000003-train-uncalibrated.png",
        "diagnose-00000003-train.png",
    ]
    table = cli("diagnose", "--run", "r", "--n", 8).out.splitlines()
    assert table[0].split()[:2] == ["t", "mean"]
    assert table[1].startswith("0.000")
    for command in (["sample", "--out", "x.png"], ["fid", "--n", 12, "--force", "--json"], ["likelihood", "--n", 12, "--json"]):
        ours, raw = (cli(*command, "--run", "r", *extra) for extra in ([], ["--no-calibration"]))
        assert ours.code == raw.code == 0
        if command[0] == "fid":
            assert json.loads(ours.out)["fd"] < json.loads(raw.out)["fd"]


def test_a_sweep_does_not_mix_settings_of_its_samplers(cli: Cli, tiny_run: Path) -> None:
    """Scores of another noise, guidance or class are points of their own, named by what is unusual."""
    command = ["sweep", "--run", tiny_run, "--n", 20, "--force", "--steps", 2, "--samplers", "abm,ddim", "--json"]
    first = json.loads(cli(*command).out)["rows"]
    record = tiny_run / "evaluations.jsonl"
    scores = [json.loads(line) for line in record.read_text().splitlines()]
    changes = [{"delta": 0.02}, {"guidance": 3.0}, {"label": "cat"}, {"eta": 0.5}]
    with record.open("a") as file:
        file.writelines(json.dumps(scores[0] | change | {"fd": 9.0}) + "\n" for change in changes)
        # The same score under other labels is the same point, and a model with other weights is another model.
        file.write(json.dumps(scores[0] | {"weights": "./elsewhere", "name": "again"}) + "\n")
        file.write(json.dumps(scores[0] | {"weights_sha256": "0", "fd": 9.0}) + "\n")
    again = cli(*command)
    assert "FD" not in again.err
    rows = {row["sampler"]: row for row in json.loads(again.out)["rows"]}
    titles = ["abm delta 0.02", "abm guidance 3", "abm class cat", "abm eta 0.5"]
    assert sorted(rows) == sorted(["abm", "ddim", *titles])
    assert [rows["abm"], rows["ddim"]] == first
    assert (rows["abm"]["calls"], rows["abm guidance 3"]["calls"]) == (2, 4)
    assert all((rows[title]["mean"], rows[title]["seeds"]) == (9.0, 1) for title in titles)


def test_a_sweep_reuses_scores_without_newer_keys(cli: Cli, tiny_run: Path) -> None:
    command = ["sweep", "--run", tiny_run, "--n", 20, "--force", "--steps", 2, "--samplers", "abm", "--json"]
    rows = json.loads(cli(*command).out)["rows"]
    record = tiny_run / "evaluations.jsonl"
    (score,) = [json.loads(line) for line in record.read_text().splitlines()]
    newer = ("eta", "delta", "label", "guidance", "calibrated")
    record.write_text(json.dumps({key: value for key, value in score.items() if key not in newer}) + "\n")
    again = cli(*command)
    assert "FD" not in again.err
    assert json.loads(again.out)["rows"] == rows
