"""`blurdiff results` and `blurdiff plot` of several runs: seeds in one row and one line, and what distinguishes runs."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

from blurcli.base import checkpoint
from blurcli.base.names import common_name
from blurcli.base.runs import Run
from blurcli.config import distinguish, load_config, parse_overrides, to_json, to_yaml
from blurcli.core.samplers import SAMPLERS
from blurcli.evaluate import Training, comparable, network_calls, over_trainings, same_but_for_the_seed
from blurcli.visualize import comparison_plots
from blurcli.visualize.comparison_plots import Chart, Line

PROTOCOL = {"n": 10_000, "features": "pixels-8x8", "reference": "shapes test", "reference_hash": "abcdef0123", "size": [8, 8]}
SAMPLING = {"sampler": "abm", "steps": 20, "eta": 0.0, "guidance": 1.0, "final": "denoised", "seed": 0}
Maker = Callable[..., Path]


def config(*assignments: str, preset: str = "shapes-blur") -> Any:
    return load_config(preset, parse_overrides(assignments))


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Write a run folder: a configuration, losses, and scores, each with the changes given."""

    def run(name: str, *assignments: str, preset: str = "shapes-blur", scores: tuple = ({},), losses: float = 1.0) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(to_yaml(config(*assignments, preset=preset)))
        lines = [{"step": step, "loss": losses / step} for step in range(1, 400)] if losses else []
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        own = [PROTOCOL | SAMPLING | {"step": 100, "fd": 1.0} | score for score in scores]
        own = [{"weights_sha256": f"{name} {score['step']}"} | score for score in own]
        (folder / "evaluations.jsonl").write_text("".join(json.dumps(score) + "\n" for score in own))
        return folder.relative_to(tmp_path)

    return run


def rows_of(done: Any) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return [row for group in json.loads(done.out)["groups"] for row in group["rows"]]


def table_of(done: Any) -> list[list[str]]:
    """The lines of a table as words, with its columns first; without what is above and below it."""
    assert done.code == 0, done.err
    lines = [line.split("  ") for line in done.out.splitlines() if "  " in line]
    return [[word.strip() for word in line if word.strip()] for line in lines]


# Seeds as one row


def test_trainings_that_differ_in_the_seed_are_one_row(cli: Cli, make: Maker) -> None:
    values = {0: (1.0, 2.0), 1: (4.0,), 2: (5.0, 7.0, 6.0)}
    for seed, own in values.items():
        make(f"runs/blur-{seed}", f"seed={seed}", scores=tuple({"fd": fd, "seed": i} for i, fd in enumerate(own)))
    make("runs/other", "process.blur_noise_ratio=0.25", scores=({"fd": 3.0},))
    row, other = rows_of(cli("results", "--json", "--sort", "run"))
    means = [fmean(own) for own in values.values()]
    assert row["fd"] == row["mean"] == pytest.approx(fmean(means))
    assert row["std"] == pytest.approx(stdev(means))
    assert (row["n"], row["trainings"], row["seeds"], row["min"], row["max"]) == (3, 3, 6, 1.5, 6.0)
    assert (row["run"], row["runs"]) == ("runs/blur-{0,1,2}", [f"runs/blur-{seed}" for seed in values])
    assert (other["fd"], other["std"], other["n"], other["trainings"], other["run"]) == (3.0, None, 1, 1, "runs/other")
    done = cli("results")
    assert "\n±: standard deviation over n trainings with different seeds\n" in done.out
    assert table_of(done) == [
        ["run", "FD", "n"],
        ["other", "3.0000", "1"],
        ["blur-{0,1,2}", f"{fmean(means):.4f} ± {stdev(means):.4f}", "3"],
    ]


@pytest.mark.parametrize(
    ("keys", "score"),
    [
        (("optim.lr=0.001",), {}),
        (("train.batch_size=7",), {}),
        ((), {"step": 101}),
        ((), {"steps": 10}),
        ((), {"sampler": "ddim"}),
        ((), {"guidance": 2.0}),
        ((), {"samples": "folder", "weights_sha256": None}),
    ],
)
def test_other_differences_are_rows_of_their_own(cli: Cli, make: Maker, keys: tuple[str, ...], score: dict) -> None:
    make("runs/a", "seed=0")
    make("runs/b", "seed=1", *keys, scores=(score,))
    assert [row["n"] for row in rows_of(cli("results", "--json"))] == [1, 1]


def test_keys_that_change_nothing_learned_do_not_matter(cli: Cli, make: Maker) -> None:
    make("runs/a", "seed=0")
    make("runs/b", "seed=1", "train.steps=9000", "train.precision=fp32", "sample.steps=5", "score.n=7")
    assert [row["n"] for row in rows_of(cli("results", "--json"))] == [2]


def test_a_seed_that_occurs_twice() -> None:
    """The other keys tell which runs belong together; or else every run is alone."""
    bf16 = [Training(config(f"seed={seed}", "train.precision=bf16")) for seed in (1, 0)]
    fp32 = [Training(config(f"seed={seed}", "train.precision=fp32")) for seed in (0, 1)]
    runs = dict(zip("abcd", (*bf16, *fp32), strict=True))
    assert same_but_for_the_seed(runs) == [["b", "a"], ["c", "d"]]
    assert same_but_for_the_seed({**runs, "e": bf16[0]}) == [["a"], ["b"], ["c", "d"], ["e"]]


def test_distilled_runs_are_alike_where_their_teachers_are(tmp_path: Path) -> None:
    """A teacher is known by its configuration and step; a lost one by its digest."""

    def distilled(name: str, seed: int, step: int, *keys: str) -> Training:
        run = Run(tmp_path / name)
        run.path.mkdir()
        run.config_path.write_text(to_yaml(config(f"seed={seed}")))
        run.sessions_path.write_text(json.dumps({"teacher": name}) + "\n")
        teacher = config(f"seed={seed}", "train.precision=fp32", *keys)
        checkpoint.write(run.teacher_path, "weights", {}, {"config": to_json(teacher), "step": str(step)})
        return Training.of(run)

    runs = {"a": distilled("a", 0, 100), "b": distilled("b", 1, 100)}
    runs |= {"longer": distilled("longer", 2, 200), "other": distilled("other", 3, 100, "optim.lr=0.1")}
    assert same_but_for_the_seed(runs) == [["a", "b"], ["longer"], ["other"]]
    for name in runs:
        Run(tmp_path / name).teacher_path.write_bytes(b"damaged")
    lost = {name: Training.of(Run(tmp_path / name)) for name in ("a", "b")}
    assert [one.teacher for one in lost.values()] == ["a", "b"]
    assert same_but_for_the_seed(lost) == [["a"], ["b"]]


def test_a_run_trained_twice_is_not_two_seeds() -> None:
    scores = [
        PROTOCOL | SAMPLING | {"step": 1, "fd": fd, "weights_sha256": str(fd), "run": run}
        for fd, run in ((1, "a"), (2, "a"), (3, "b"))
    ]
    (group,) = comparable(scores)
    merged = over_trainings(group, {"a": Training(config("seed=0")), "b": Training(config("seed=1"))})
    assert [(row["mean"], row["n"]) for row in merged.rows] == [(1, 1), (2, 1), (3, 1)]


def test_the_run_of_weights_that_were_scored_elsewhere(cli: Cli, make: Maker) -> None:
    """Their first score is of no run folder, and has the same hash."""
    for seed in (0, 1):
        make(f"runs/x{seed}", f"seed={seed}")  # read after runs/evaluations.jsonl
    line = PROTOCOL | SAMPLING | {"step": 100, "fd": 3.0, "weights_sha256": "runs/x0 100", "seed": 5, "weights": "w"}
    Path("runs/evaluations.jsonl").write_text(json.dumps(line) + "\n")
    (row,) = rows_of(cli("results", "--json"))
    assert (row["n"], row["mean"], row["run"]) == (2, 1.5, "runs/x{0,1}")
    Path("runs/x1/evaluations.jsonl").unlink()
    (row,) = rows_of(cli("results", "--json"))
    assert (row["n"], row["mean"], row["run"], row["runs"]) == (2, 2.0, "runs/x0", ["runs/x0"])


def test_runs_without_a_configuration_stay_apart(cli: Cli, make: Maker) -> None:
    for seed in (0, 1, 2):
        make(f"runs/{seed}", f"seed={seed}")
    Path("runs/0/config.yaml").unlink()
    Path("runs/1/config.yaml").write_text("seed: [")
    done = cli("results", "--json")
    assert len(rows_of(done)) == 3
    assert "the seeds of runs/1 stay rows of their own" in done.err


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (["a"], "a"),
        (["blur-0", "blur-1", "blur-2"], "blur-{0,1,2}"),
        (["blur-10", "blur-11"], "blur-{10,11}"),
        (["seed1/blur", "seed2/blur"], "seed{1,2}/blur"),
        (["blur", "blur-2"], "blur{,-2}"),
        (["x", "y"], "{x,y}"),
        ([f"blur-{seed}" for seed in range(12)], "blur-{0,...,11}"),
    ],
)
def test_names_of_several_runs(names: list[str], common: str) -> None:
    assert common_name(names) == common


# Tables


def test_tables_fit_into_80_columns_and_numbers_are_whole(cli: Cli, make: Maker) -> None:
    others = {"kd": 0.1, "precision": 0.5, "recall": 0.4, "log_spectral_distance": 0.3}
    for seed in (0, 1):
        scores = tuple(
            {"fd": 123456.5 + steps + seed, "steps": steps, "name": "a long name of a score"} | others for steps in (1, 2)
        )
        make(f"runs/a-long-name-of-a-run-{seed}", f"seed={seed}", scores=scores)
        make(f"runs/another-name-{seed}", f"seed={seed}", "optim.lr=0.001", scores=scores)
    done = cli("results")
    assert max(map(len, done.out.splitlines())) <= 80
    assert "a-long-name-of-a-run-{0,1}  1      123458.0000 ± 0.7071" in done.out
    assert "name a long name of a score" in done.out.splitlines()[1]
    assert done.out.splitlines()[-1] == "not shown: KD, log-spectral distance"


def test_columns_that_are_equal_are_named_once(cli: Cli, make: Maker) -> None:
    make("runs/x/a", scores=({"fd": 1.0, "steps": 10}, {"fd": 2.0, "steps": 5}))
    assert table_of(cli("results")) == [["steps", "FD"], ["10", "1.0000"], ["5", "2.0000"]]
    assert cli("results").out.splitlines()[1] == "runs in runs/x/, run a, step 100, abm final denoised"
    make("runs/y", "optim.lr=0.001", scores=({"fd": 3.0, "steps": 10},))
    assert table_of(cli("results"))[1:] == [["x/a", "10", "1.0000"], ["x/a", "5", "2.0000"], ["y", "10", "3.0000"]]


def test_small_scores_keep_their_digits(cli: Cli, make: Maker) -> None:
    make("runs/a", scores=({"fd": 0.000123456}, {"fd": 0.000223456, "seed": 1}, {"fd": 0.5, "steps": 3}))
    assert table_of(cli("results"))[1][1] == "0.000173 ± 0.000071"


def test_other_metrics(cli: Cli, make: Maker) -> None:
    scores = tuple({"fd": 1.0 + i, "precision": i / 10, "steps": i + 1} for i in range(3))
    make("runs/a", scores=(*scores, {"fd": 9.0, "steps": 9}))
    likelihood = {"bits_per_dim": 4.0, "calls": 8, "n": 4, "reference_hash": "x", "weights_sha256": "w"}
    with Path("runs/a/evaluations.jsonl").open("a") as file:
        file.write(json.dumps(likelihood) + "\n")
    groups = json.loads(cli("results", "--json").out)["groups"]
    assert [group["metric"] for group in groups] == ["fd", "bits_per_dim"]
    assert groups[1]["rows"][0]["calls"] == 8
    (group,) = json.loads(cli("results", "--json", "--metric", "FD").out)["groups"]
    assert [row["fd"] for row in group["rows"]] == [1.0, 2.0, 3.0, 9.0]
    # One that does not rank by itself, the highest first; scores without it are left out.
    (group,) = json.loads(cli("results", "--json", "--metric", "precision").out)["groups"]
    assert [(row["precision"], row["mean"], row["fd"]) for row in group["rows"]] == [
        (0.2, 0.2, 3),
        (0.1, 0.1, 2),
        (0.0, 0.0, 1),
    ]
    assert cli("results", "--metric", "precision").out.startswith("precision in pixels-8x8: 10,000 images")
    done = cli("results", "--metric", "fid")
    assert (done.code, done.out, done.err) == (0, "", "no scores with fid\n")


def test_orders(cli: Cli, make: Maker) -> None:
    make(
        "runs/a-10", "optim.lr=0.001", scores=({"fd": 1.0, "steps": 5, "recall": 0.5}, {"fd": 3.0, "steps": 50, "recall": 0.7})
    )
    make("runs/a-9", scores=({"fd": 2.0, "steps": 10, "guidance": 2.0},))
    orders = {"fd": (1, 2, 3), "steps": (1, 2, 3), "calls": (1, 2, 3), "recall": (3, 1, 2), "run": (2, 1, 3), "Step": (1, 2, 3)}
    for key, expected in orders.items():
        assert tuple(row["fd"] for row in rows_of(cli("results", "--json", "--sort", key))) == expected, key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sort", "recal"), "--sort recal: unknown; did you mean 'recall'? (known: run, name, step,"),
        (("--metric", "presision"), "--metric presision: unknown; did you mean 'precision'? (known: fid, fd,"),
        (("--metric", "steps"), "--metric steps: unknown"),
        (("--json", "--format", "csv"), "--json --format csv: give one of them, not both"),
    ],
)
def test_keys_that_do_not_exist(cli: Cli, make: Maker, arguments: tuple[str, ...], message: str) -> None:
    make("runs/a")
    done = cli("results", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in " ".join(done.err.split())


def test_csv_is_complete(cli: Cli, make: Maker) -> None:
    for seed in (0, 1):
        make(
            f"runs/a{seed}",
            f"seed={seed}",
            scores=({"fd": 1 / 3 + seed, "kd": 0.1, "name": 'a "b", c'}, {"fd": 7.0, "n": 50, "sampler": "ddim"}),
        )
    first, second = csv.DictReader(io.StringIO(cli("results", "--format", "csv").out))
    assert float(first["mean"]) == fmean((1 / 3, 4 / 3))
    assert float(first["std"]) == stdev((1 / 3, 4 / 3))
    expected = {
        "metric": "fd",
        "images": "10000",
        "n": "2",
        "run": "runs/a{0,1}",
        "step": "100",
        "sampler": "abm",
        "steps": "20",
    }
    expected |= {
        "calls": "20",
        "seeds": "2",
        "trainings": "2",
        "kd": "0.1",
        "name": 'a "b", c',
        "size": "8x8",
        "features": "pixels-8x8",
    }
    assert expected.items() <= first.items()
    assert (second["images"], second["sampler"], second["kd"]) == ("50", "ddim", "")
    assert "fid" not in first


def test_markdown_and_latex_have_the_same_table(cli: Cli, make: Maker) -> None:
    for seed in (0, 1):
        make(f"runs/a_{seed}", f"seed={seed}", scores=({"fd": 1.0 + seed},))
    make("runs/b", "optim.lr=0.001")
    markdown, latex = (cli("results", "--format", form).out for form in ("markdown", "latex"))
    assert (
        "\n\n| run | FD | n |\n| --- | ---: | ---: |\n| b | 1.0000 | 1 |\n| a_{0,1} | 1.5000 ± 0.7071 | 2 |\n\n±: " in markdown
    )
    assert r"a\_\{0,1\} & 1.5000 $\pm$ 0.7071 & 2 \\" in latex
    outside = [
        line for line in latex.partition(r"\begin")[0].splitlines() + latex.partition(r"\end{tabular}")[2].splitlines() if line
    ]
    assert all(line.startswith("% ") for line in outside)
    assert json.loads(cli("results", "--format", "json").out) == json.loads(cli("results", "--json").out)


@pytest.mark.parametrize("form", ["table", "csv", "markdown", "latex", "json"])
def test_lines_can_hold_anything(cli: Cli, make: Maker, form: str) -> None:
    odd: tuple[dict, ...] = (
        {"name": ["\ud800"], "samples": [5], "step": [1], "label": {"a": 1}},
        {"sampler": "\ud800", "features": "\ud800", "size": ["\ud800", [1]]},
        {"steps": 1e299, "draws": 1e299, "guidance": [1], "guide": {}, "weights": 3},
        {"steps": None, "fd": 1e-300, "step": "x|y & z"},
        {"reference_hash": [1], "n": 0.5, "seed": []},
    )
    make("runs/a", scores=odd)
    make("runs/b", "seed=1", scores=odd)
    for arguments in ((), ("--sort", "step"), ("--sort", "label"), ("--sort", "calls")):
        done = cli("results", "--format", form, *arguments)
        assert (done.code, done.out != "") == (0, True), done.err
    assert cli("plot", "runs", "--format", "png").code == 0


# Network calls


@pytest.mark.parametrize(
    ("score", "calls"),
    [
        ({}, 20),
        ({"guidance": 2.0}, 40),
        ({"guidance": 2.0, "guide": "digest"}, 40),
        ({"guidance": 1.0, "guide": "digest"}, 20),
        ({"guidance": 2.0, "label": "cat"}, 40),
        ({"guidance": 2.0, "label": "none"}, 20),
        ({"guidance": 2.0, "label": "none", "guide": "digest"}, 40),
        ({"guidance": None}, 20),
        ({"draws": 8}, 160),
        ({"sampler": None, "steps": None, "calls": 32}, 32),
        ({"sampler": "of the future"}, None),
        ({"sampler": ["abm"]}, None),
        ({"steps": "x"}, None),
    ],
)
def test_network_calls_of_a_score(score: dict, calls: int | None) -> None:
    assert network_calls(PROTOCOL | SAMPLING | {"fd": 1.0} | score) == calls


def test_two_calls_per_step(cli: Cli, make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SAMPLERS["ddim"], "calls_per_step", 2)
    scores = ({"steps": 10}, {"steps": 10, "sampler": "ddim", "fd": 2.0}, {"steps": 5, "sampler": "ddim", "fd": 3.0})
    make("runs/a", scores=scores)
    assert table_of(cli("results")) == [
        ["sampler", "steps", "calls", "FD"],
        ["abm", "10", "10", "1.0000"],
        ["ddim", "10", "20", "2.0000"],
        ["ddim", "5", "10", "3.0000"],
    ]
    drawn = []
    monkeypatch.setattr("blurcli.visualize.plots.save_sweep", lambda rows, *_, width: drawn.append(rows))
    assert cli("plot", "runs/a", "--format", "png").code == 0
    assert [(row["sampler"].split()[0], row["calls"]) for row in drawn[0]] == [("abm", 10), ("ddim", 10), ("ddim", 20)]


# What distinguishes runs


@pytest.mark.parametrize(
    ("configs", "title", "labels"),
    [
        ([config(), config("process.blur_noise_ratio=0.25")], "process.blur_noise_ratio", ["0.5", "0.25"]),
        ([config(), config(preset="shapes-noblur")], "process.blur_noise_ratio", ["0.5", "no blur"]),
        (
            [config("process.blur_schedule=sin2", "process.blur_sigma_max=20"), config(preset="shapes-noblur")],
            "process.blur_sigma_max",
            ["20", "no blur"],
        ),
        (
            [config(), config("process.blur_schedule=sin2", "process.blur_sigma_max=20")],
            "",
            ["blur_noise_ratio 0.5", "blur_sigma_max 20"],
        ),
        (
            [config(preset="shapes-noblur"), config("optim.lr=1e-5", preset="shapes-noblur")],
            "optim.lr",
            ["0.0015", "1e-05"],
        ),
        (
            [config(), config("objective=v", "optim.lr=1e-5", "seed=4")],
            "",
            ["objective spectral, lr 0.0015", "objective v, lr 1e-05"],
        ),
        (
            [config(), config("process.blur_noise_ratio=0.25"), config("process.blur_noise_ratio=0.1", "optim.lr=1e-5")],
            "",
            ["blur_noise_ratio 0.5", "blur_noise_ratio 0.25", "blur_noise_ratio 0.1, lr 1e-05"],
        ),
        (
            [config(), config("optim.lr=1e-5"), config("objective=v")],
            "",
            ["objective spectral, lr 0.0015", "objective spectral, lr 1e-05", "objective v, lr 0.0015"],
        ),
        ([config("seed=3"), config("seed=5", "train.steps=7")], "", ["seed 3", "seed 5"]),
        ([config(), config("train.precision=fp32")], "train.precision", ["auto", "fp32"]),
        ([config(), config()], "", ["", ""]),
    ],
)
def test_what_distinguishes_configurations(configs: list[Any], title: str, labels: list[str]) -> None:
    assert distinguish(configs) == (title, labels)


# Several runs in one plot


@pytest.fixture
def charts(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Chart, float]]:
    """What is drawn, by the name of the file, and the width."""
    seen: dict[str, tuple[Chart, float]] = {}
    monkeypatch.setattr(
        "blurcli.visualize.run_comparison.save_chart", lambda chart, path, width: seen.update({path.name: (chart, width)})
    )
    return seen


def curve(*values: float, **changes: object) -> tuple[dict, ...]:
    return tuple({"step": 100 * (i + 1), "fd": value, **changes} for i, value in enumerate(values))


def test_seeds_are_one_line_with_a_band(cli: Cli, make: Maker, charts: dict) -> None:
    for seed in (0, 1, 2):
        make(f"runs/a{seed}", f"seed={seed}", scores=curve(4.0 + seed, 2.0 + 2 * seed), losses=1.0 + seed)
    make("runs/b", "process.blur_noise_ratio=0.25", scores=curve(8.0, 9.0), losses=5.0)
    done = cli("plot", "runs/a0", "runs/a2", "runs/a1", "runs/b", "--format", "svg")
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["runs/plots/loss.svg", "runs/plots/fd-pixels-8x8-n10000.svg"]
    chart, width = charts["fd-pixels-8x8-n10000.svg"]
    assert width == 7
    assert (chart.legend, [line.label for line in chart.lines]) == ("process.blur_noise_ratio", ["0.5", "0.25"])
    assert [line.points.tolist() for line in chart.lines] == [
        [[100, 5, 4, 6], [200, 4, 2, 6]],
        [[100, 8, 8, 8], [200, 9, 9, 9]],
    ]
    assert chart.caption == (
        "FD in pixels-8x8: 10,000 images, reference shapes test (abcdef01), abm final denoised, 20 steps, mean and range over seeds"
    )
    loss, _ = charts["loss.svg"]
    x, mean, low, high = loss.lines[0].points.T
    assert np.allclose([mean / low, high / low], [[2.0], [3.0]])
    assert (len(x), x[0], x[-1]) == (133, 2, 398)  # means of three steps
    assert "no plot against network calls of FD" in done.err


def test_seeds_alone_are_lines_of_their_own(cli: Cli, make: Maker, charts: dict) -> None:
    for seed in (0, 1):
        make(f"runs/a{seed}", f"seed={seed}", scores=curve(4.0 + seed, 2.0))
    assert cli("plot", "runs/a0", "runs/a1", "--format", "pdf").code == 0
    for chart, _ in charts.values():
        assert (chart.legend, [line.label for line in chart.lines]) == ("", ["seed 0", "seed 1"])
    assert "seeds" not in charts["loss.pdf"][0].caption


def test_scores_against_network_calls(cli: Cli, make: Maker, charts: dict) -> None:
    """At the newest step that all seeds have; with guidance a step has two calls; other settings are other lines."""
    points = tuple({"steps": steps, "fd": 10 / steps, "step": 200} for steps in (10, 5))
    for seed in (0, 1):
        make(f"runs/a{seed}", f"seed={seed}", scores=(*points, *({"step": 300, "steps": 5},) * (seed == 0)))
    guided = tuple(score | {"guidance": 2.0, "step": 100} for score in points)
    make("runs/b", "optim.lr=0.001", scores=guided)
    assert cli("plot", "runs/a0", "runs/a1", "runs/b", "--format", "png").code == 0
    chart, _ = charts["sweep-fd-pixels-8x8-n10000.png"]
    assert (chart.x, chart.by_count, chart.legend) == ("network calls per image", True, "optim.lr")
    assert [line.label for line in chart.lines] == ["0.0015, training step 200", "0.001, guidance 2, training step 100"]
    assert [line.points[:, 0].tolist() for line in chart.lines] == [[5, 10], [10, 20]]


def test_scores_of_different_protocols_are_never_in_one_plot(cli: Cli, make: Maker, charts: dict) -> None:
    make("runs/a", scores=(*curve(1.0, 2.0), *curve(1.0, 2.0, reference_hash="other")))
    make("runs/b", "optim.lr=0.001", scores=(*curve(3.0, 4.0), *curve(5.0, 6.0, n=50)))
    assert cli("plot", "runs/a", "runs/b", "--format", "png").code == 0
    found = {
        name: [line.points[:, 1].tolist() for line in chart.lines] for name, (chart, _) in charts.items() if "loss" not in name
    }
    assert found == {
        "fd-pixels-8x8-n10000.png": [[1, 2], [3, 4]],
        "fd-pixels-8x8-n10000-1.png": [[1, 2]],
        "fd-pixels-8x8-n50-2.png": [[5, 6]],
    }


def test_losses_of_different_objectives_are_never_in_one_plot(cli: Cli, make: Maker, charts: dict) -> None:
    make("runs/a")
    make("runs/b", "objective=v")
    assert cli("plot", "runs/a", "runs/b", "--format", "png").code == 0
    names = [f"loss-diffusion-{objective}-balanced-path.png" for objective in ("spectral", "v")]
    assert [len(charts[name][0].lines) for name in names] == [1, 1]


def test_a_folder_stands_for_its_runs(cli: Cli, make: Maker, charts: dict) -> None:
    for name in ("study/a/0", "study/a/1", "study/b"):
        make(name, f"seed={name[-1] if name[-1].isdecimal() else 5}")
    make("study/begun", "seed=7", scores=(), losses=0)
    done = cli("plot", "study", "--format", "png")
    assert (done.code, done.out) == (0, "study/plots/loss.png\n"), done.err
    assert [line.label for line in charts["loss.png"][0].lines] == ["seed 0", "seed 1", "seed 5"]
    assert "skipped study/begun: nothing is recorded yet" in done.err
    # A run is a run, whatever is below it; of a single one the plots are in its folder.
    make("study/a/0/inner", "seed=8")
    assert cli("plot", "study/a/0", "--format", "png").out == "study/a/0/plots/loss.png\n"


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (("runs/a", "./runs/a"), "runs/a: is named twice (also as runs/a); name each run once"),
        (("runs/a", "runs"), "runs/a: is named twice"),
        (("runs/a", "runs/empty"), "runs/empty: nothing is recorded yet; record losses with blurdiff train"),
        (("runs/a", "runs/absent"), "runs/absent: no such run folder"),
        (("runs/a", "runs/size"), "runs/size: was trained with data.image_size [16, 16], and runs/a with [32, 32]"),
        (("runs/a", "runs/gray"), "runs/gray: was trained with data.channels 1, and runs/a with 3"),
        (("runs/a", "runs/mnist"), "runs/mnist: was trained with data.source mnist, and runs/a with shapes"),
        (("runs/a", "runs/bare"), "runs/bare: not a run folder (it has no config.yaml)"),
    ],
)
def test_runs_that_cannot_be_compared(cli: Cli, make: Maker, runs: tuple[str, ...], message: str) -> None:
    make("runs/a")
    make("runs/empty", "seed=1", scores=(), losses=0)
    make("runs/size", "data.image_size=16")
    make("runs/gray", "data.channels=1")
    make("runs/mnist", "data.source=mnist")
    make("runs/bare", "seed=2")
    Path("runs/bare/config.yaml").unlink()
    done = cli("plot", *runs, "--out", "made")
    assert (done.code, done.out, Path("made").exists()) == (2, "", False)
    assert message in " ".join(done.err.split())
    assert done.err.count("error:") == 1


def test_files_of_a_comparison(cli: Cli, make: Maker) -> None:
    """Their widths, and fonts that publishers accept."""
    for seed in (0, 1):
        make(f"runs/a{seed}", f"seed={seed}", scores=curve(4.0 + seed, 2.0))
    make("runs/b", "process.blur_noise_ratio=0.25")
    done = cli("plot", "runs", "--format", "png", "--width", 3.3, "--out", "made", "--json")
    assert json.loads(done.out)["plots"] == ["made/loss.png", "made/fd-pixels-8x8-n10000.png"]
    with Image.open("made/loss.png") as picture:
        assert picture.width == 495
    assert cli("plot", "runs", "--format", "pdf", "--out", "made").code == 0
    content = Path("made/loss.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Type3" not in content
    cli("plot", "runs", "--format", "svg", "--out", "made")
    text = Path("made/loss.svg").read_text()
    assert all(text.count(f"<!-- {word} -->") == 1 for word in ("process.blur_noise_ratio", "0.5", "0.25", "training steps"))
    assert cli("plot", "runs/b", "--format", "png", "--width", 3).code == 0
    with Image.open("runs/b/plots/loss.png") as picture:
        assert picture.width == 450


def test_long_legends_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(comparison_plots, "save_figure", lambda figure, path: drawn.append(figure))
    label = "objective spectral, blur_noise_ratio 0.5, lr 0.0015, loss_weight balanced, time_sampling uniform"
    lines = [Line(label, number, 0, np.ones((3, 4)) * [[1], [2], [3]]) for number in range(6)]
    for width in (3.3, 7.0):
        with comparison_plots.printed(width):
            comparison_plots.save_chart(Chart(label, "x", "y", "title", lines), tmp_path / "x.png", width)
        figure = drawn.pop()
        figure.draw_without_rendering()
        (legend,) = figure.legends
        (axes,) = figure.axes
        for box in (legend.get_window_extent(), axes.title.get_window_extent()):
            assert 0 <= box.x0 < box.x1 <= figure.bbox.width
            assert 0 <= box.y0 < box.y1 <= figure.bbox.height
        assert axes.get_window_extent().height > 0.3 * axes.get_window_extent().width


def test_many_lines_differ_in_color_or_marker() -> None:
    count = len(comparison_plots._COLORS) * len(comparison_plots._MARKERS)
    pairs = {(number % len(comparison_plots._COLORS), number % len(comparison_plots._MARKERS)) for number in range(count)}
    assert len(pairs) == count
