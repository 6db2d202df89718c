import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image

from blurcli.base.errors import UsageError, UserError
from blurcli.base.runs import Run
from blurcli.visualize import plots
from blurcli.visualize.figures import check_plot, thinned
from blurcli.visualize.plots import save_errors, save_sweep
from blurcli.visualize.records import band_plots

ROWS = [
    {"sampler": sampler, "calls": calls, "mean": 1 / calls, "min": 0.9 / calls, "max": 1.2 / calls}
    for sampler in ("abm", "ddim")
    for calls in (5, 20)
]


def test_a_sweep_names_its_samplers_and_axes(tmp_path: Path) -> None:
    save_sweep(ROWS, "FD", tmp_path / "s.svg")
    text = (tmp_path / "s.svg").read_text()
    for word in ("abm", "ddim", "FD", "network calls per image", "20"):
        assert f"<!-- {word}" in text
    save_sweep(ROWS, "FD", tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (1050, 675)


def test_the_color_scale_of_errors_is_centered_at_one(tmp_path: Path) -> None:
    relative = torch.tensor([[0.01, 1.0], [0.01, 1.0], [0.01, 1e9]])
    save_errors(torch.linspace(0, 1, 3), relative, ["mean", "4-2 px"], tmp_path / "e.png")
    with Image.open(tmp_path / "e.png") as picture:
        pixels = picture.convert("RGB")
        seen = {pixels.getpixel((x, y)) for x in (250, 500, 800) for y in (150, 450)}
    blue, white, red = (5, 48, 97), (247, 247, 247), (103, 0, 31)  # the ends and the middle of RdBu
    assert all(min(sum(abs(a - b) for a, b in zip(color, c, strict=True)) for c in seen) < 12 for color in (blue, white, red))


def test_the_color_scale_of_errors_shows_small_ones(tmp_path: Path) -> None:
    relative = torch.tensor([[0.5, 1.0], [0.5, 1.0], [0.5, 2.0]])
    save_errors(torch.linspace(0, 1, 3), relative, ["mean", "4-2 px"], tmp_path / "e.png")
    with Image.open(tmp_path / "e.png") as picture:
        colors = [picture.convert("RGB").getpixel((x, y)) for x, y in ((250, 150), (800, 450))]
    for color, end in zip(colors, ((5, 48, 97), (103, 0, 31)), strict=True):
        assert sum(abs(a - b) for a, b in zip(color, end, strict=True)) < 12


def test_refusals_come_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown format of a plot; end the name in .png, .svg or .pdf"):
        check_plot(tmp_path / "s.jpeg")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        check_plot(tmp_path / "file" / "s.png")


# the command

SWEEP = ("sweep", "--samplers", "abm,ddim", "--steps", "2,3", "--n", 12, "--features", "pixels", "--force")


def test_all_records_of_a_run(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    assert cli(*SWEEP, "--run", tiny_run).code == 0
    done = cli("plot", tiny_run, "--out", "made")
    assert done.code == 0, done.err
    names = {"loss", "sweep-fd-pixels-8x8-n12", "spectrum"}
    assert {Path(line).name for line in done.out.splitlines()} == {f"{name}.{end}" for name in names for end in ("png", "svg")}
    assert "over training: it needs scores of two weights files" in done.err
    for path in (tmp_path / "made").glob("*.png"):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 10
    # The plot of the sweep itself has the same label.
    assert cli(*SWEEP, "--run", tiny_run, "--out", "s.svg").code == 0
    for path in (tmp_path / "made" / "sweep-fd-pixels-8x8-n12.svg", tmp_path / "s.svg"):
        assert "<!-- FD (pixels-8x8, 12 images) -->" in path.read_text()

    # With scores of earlier weights, there are plots over training.
    record = tiny_run / "evaluations.jsonl"
    scores = [json.loads(line) for line in record.read_text().splitlines()]
    earlier = [score | {"step": 1, "weights": "w", "weights_sha256": "1", "fd": 2 * score["fd"]} for score in scores]
    with record.open("a") as file:
        file.writelines(json.dumps(score) + "\n" for score in earlier)
    done = cli("plot", tiny_run, "--format", "svg", "--json")
    made = [Path(path) for path in json.loads(done.out)["plots"]]
    assert {path.name for path in made} == {f"{name}.svg" for name in (*names, "fd-pixels-8x8-n12")}
    assert all(path.parent == tiny_run / "plots" and path.is_file() for path in made)


def test_the_loss_by_time(tiny_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    health = [{"step": step, "times": [0.0, 1.0], "loss": [[1.0, 3.0], [step, step]]} for step in (1, 2)]
    (tiny_run / "health.jsonl").write_text("\n".join(map(json.dumps, health)) + '\n{"step": 3, "ti')
    seen = []
    monkeypatch.setattr(plots, "save_loss", lambda *arguments, width: seen.append(arguments))
    assert cli("plot", tiny_run, "--format", "png").code == 0
    steps, losses, by_time, path = seen[0]
    logged = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert (steps, losses) == ([line["step"] for line in logged], [line["loss"] for line in logged])
    assert by_time == {0.0: [(1, 2.0), (2, 2.0)], 1.0: [(1, 1.0), (2, 2.0)]}
    assert path == tiny_run / "plots" / "loss.png"


def test_a_loss_by_time_of_one_measurement_is_no_curve(tiny_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty panel or plot is left out, with its reason; a single logged loss is a visible point."""
    health = {"step": 2, "times": [0.0, 1.0], "bands": ["mean", "4-2 px"], "loss": [[1.0, 3.0], [1.0, 1.0]]}
    (tiny_run / "health.jsonl").write_text(json.dumps(health) + "\n")
    (tiny_run / "metrics.jsonl").write_text('{"step": 3, "loss": 0.5}\n')
    seen = []
    save = plots.save_loss
    monkeypatch.setattr(plots, "save_loss", lambda *arguments, width: seen.append(arguments) or save(*arguments))
    done = cli("plot", tiny_run, "--format", "png")
    assert "no plot of the loss by time: it needs two measurements; train.health_every_steps sets their interval" in done.err
    assert seen[0][:3] == ([3], [0.5], {})
    with Image.open(tiny_run / "plots" / "loss.png") as picture:
        blue = np.asarray(picture.convert("RGB")).astype(int) - (31, 119, 180)
    assert (np.abs(blue).sum(-1) < 9).sum() > 20
    assert not list(band_plots(Run(tiny_run)))


def test_scores_over_training_and_against_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    common = {"n": 5, "features": "pixels", "reference_hash": "r", "size": [8, 8], "sampler": "abm"}
    lines = [
        common | {"step": step, "steps": steps, "seed": seed, "fd": step + steps + seed}
        for step in (10, 20)
        for steps in (1, 2)
        for seed in (0, 1)
    ]
    run = tmp_path / "run"
    run.mkdir()
    (run / "evaluations.jsonl").write_text("\n".join(map(json.dumps, lines)))
    seen = {}
    for name in ("save_scores", "save_sweep"):
        monkeypatch.setattr(plots, name, lambda what, title, path, width, name=name: seen.update({name: (what, title)}))
    assert cli("plot", run).code == 0
    assert seen["save_scores"] == (
        {"abm, 1 steps": [(10, 11.5, 11, 12), (20, 21.5, 21, 22)], "abm, 2 steps": [(10, 12.5, 12, 13), (20, 22.5, 22, 23)]},
        "FD (pixels, 5 images)",
    )
    rows, _ = seen["save_sweep"]
    assert [(row["calls"], row["mean"], row["min"], row["max"]) for row in rows] == [(1, 21.5, 21, 22), (2, 22.5, 22, 23)]


def test_lines_of_a_plot_have_one_setting_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    """Not several deltas, classes or guidances; the run's labels and spellings of paths make no difference."""
    common = {"n": 5, "features": "pixels", "reference_hash": "r", "size": [8, 8], "sampler": "heat", "seed": 0}
    settings = [{"delta": 0.01}, {"delta": 0.02}, {"delta": 0.01, "guidance": 2.0}, {"delta": 0.01, "label": "cat"}]
    lines = [
        common | setting | {"step": step, "weights_sha256": str(step), "steps": steps, "fd": step + steps + number / 10}
        for number, setting in enumerate(settings)
        for step in (10, 20)
        for steps in (1, 2)
    ]
    labels = {"name": "again", "weights": "elsewhere", "seed": 1}
    lines += [lines[0] | labels]
    run = tmp_path / "run"
    run.mkdir()
    (run / "evaluations.jsonl").write_text("\n".join(map(json.dumps, lines)))
    seen = {}
    for name in ("save_scores", "save_sweep"):
        monkeypatch.setattr(plots, name, lambda what, title, path, width, name=name: seen.update({name: what}))
    assert cli("plot", run).code == 0
    titles = ["heat delta 0.01", "heat delta 0.02", "heat delta 0.01 guidance 2", "heat delta 0.01 class cat"]
    assert sorted(seen["save_scores"]) == sorted(f"{title}, {steps} steps" for title in titles for steps in (1, 2))
    assert all([point[0] for point in points] == [10, 20] for points in seen["save_scores"].values())
    assert [row["sampler"] for row in seen["save_sweep"]] == [title for title in sorted(titles) for _ in range(2)]
    calls = [row["calls"] for row in seen["save_sweep"] if "guidance" in row["sampler"]]
    assert calls == [2, 4]  # two networks per step

    # Weights of the same step from two trainings are two lines.
    other = [line | {"weights_sha256": "other", "fd": 9.0} for line in lines if line["step"] == 20]
    (run / "evaluations.jsonl").write_text("\n".join(map(json.dumps, lines + other)))
    assert cli("plot", run).code == 0
    assert len({row["sampler"] for row in seen["save_sweep"]}) == 2 * len(titles)


def test_damaged_lines(cli: Cli, tmp_path: Path) -> None:
    """They are skipped; the others are plotted."""
    run = tmp_path / "run"
    run.mkdir()
    spectra = {"spectrum": [1, 2], "reference_spectrum": [1, 2], "size": [4, 4]}
    good = {"step": 3, "steps": 5, "fd": 2.0, "n": 5, "reference_hash": "x"}
    lines = {
        "metrics.jsonl": [
            {"step": 1, "loss": 0.5},
            {"step": 2, "loss": float("nan")},
            {"step": 3, "loss": None},
            {"loss": "x"},
        ],
        "health.jsonl": [{"step": 1}, {"step": 1, "times": ["a"], "loss": [[1]]}, {"step": 2, "times": [0.5], "loss": [[]]}],
        "evaluations.jsonl": [good | spectra, good | {"step": "a"}, good | {"steps": [1]}, good | spectra | {"size": ["a", 1]}],
    }
    for name, values in lines.items():
        (run / name).write_text("\n".join(map(json.dumps, values)) + "\n3\n{")
    done = cli("plot", run, "--format", "png")
    assert done.code == 0, done.err
    assert done.out == f"{run / 'plots' / 'loss.png'}\n"


def test_nothing_to_plot(cli: Cli, tmp_path: Path) -> None:
    done = cli("plot", "absent")
    assert (done.code, done.err) == (2, "error: absent: no such run folder\n")
    (tmp_path / "empty").mkdir()
    done = cli("plot", "empty")
    assert done.code == 2
    assert "empty: nothing is recorded yet" in done.err
    assert not (tmp_path / "empty" / "plots").exists()


def test_long_records_stay_small(tmp_path: Path) -> None:
    """Lines of a long training are thinned to means, which keep their range."""
    steps = list(range(1, 100_001))
    by_time = {t / 8: [(step, 2.0 + step % 2) for step in range(2_000)] for t in range(9)}
    plots.save_loss(steps, [float(step % 2) + 1 for step in steps], by_time, tmp_path / "l.svg")
    plots.save_bands({"a": by_time[0.0], "$\\bad$ \ud800\n": by_time[0.0]}, tmp_path / "b.svg", width=4.2)
    assert (tmp_path / "l.svg").stat().st_size < 300_000
    x, y = thinned([(step, step % 2) for step in range(1001)], 100)
    assert len(x) <= 100
    assert (x[0], y[0]) == (5.0, pytest.approx(5 / 11))
    assert x[-1] <= 1000


def test_less_than_a_decade_has_readable_ticks(tmp_path: Path) -> None:
    lines = {"abm": [(step, value, value, value) for step, value in ((1, 1.6), (2, 3.1))]}
    plots.save_scores(lines, "FD", tmp_path / "s.svg")
    ticks = [
        text for text in ("1.75", "2", "2.25", "2.5", "2.75", "3") if f"<!-- {text} -->" in (tmp_path / "s.svg").read_text()
    ]
    assert len(ticks) >= 4


def test_names_of_plots_stay_in_their_folder(cli: Cli, tmp_path: Path) -> None:
    common = {"n": 5, "features": "../../x/$y$", "reference_hash": "r", "size": [8, 8], "sampler": "$\\bad$", "steps": 1}
    (tmp_path / "run").mkdir()
    lines = [json.dumps(common | {"step": step, "fd": 1.0}) + "\n" for step in (1, 2)]
    (tmp_path / "run" / "evaluations.jsonl").write_text("".join(lines))
    done = cli("plot", "run", "--format", "png")
    assert done.code == 0, done.err
    assert [path.relative_to(tmp_path / "run") for path in tmp_path.rglob("*.png")] == [Path("plots/fd-.._.._x__y_-n5.png")]
