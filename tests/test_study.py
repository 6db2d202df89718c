"""Studies: files, plans, trainings that are shared and continued, scores, intervals, tables."""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import Cli, Process, settings, shell
from PIL import Image
from safetensors.torch import load_file
from scipy import stats

from blurcli.base import files
from blurcli.base.checkpoint import content_hash
from blurcli.base.errors import DivergedError, UsageError
from blurcli.base.tables import write_table
from blurcli.config.study import load_study, slug
from blurcli.evaluate.paired import Spread, half_width
from blurcli.model.pipeline import Pipeline
from blurcli.model.weights import load_weights
from blurcli.workflows.study import Worker
from blurcli.workflows.study_plan import Plan, make_plan, parse_part
from blurcli.workflows.study_report import report_of
from blurcli.workflows.study_setup import plan_study

SET = {
    "data.image_size": 8,
    "data.shapes_count": 256,
    "model": {"base_channels": 8, "multipliers": [1, 2], "attention_levels": [1], "blocks_per_level": 1, "patch_size": 1},
    "optim.warmup_steps": 2,
    "train.batch_size": 4,
    "train.precision": "fp32",
    "sample.steps": 2,
    "score.n": 200,
}
LIKELIHOOD = {"likelihood": 4, "split": "train"}
NONE = {"process.blur_sigma_max": 0}
STUDY: dict[str, Any] = {
    "preset": "shapes-blur",
    "set": SET,
    "base": "none",
    "variants": {"none": NONE, "blur": {}},
    "seeds": [0, 1],
    "steps": [3, 5],
    "scores": [{"features": "pixels", "metrics": ["fd", "precision"]}],
}


def written(folder: Path, name: str = "tiny", **keys: Any) -> Path:
    """A study file with other keys than `STUDY`'s; None leaves a key out."""
    content = {key: value for key, value in {**STUDY, **keys}.items() if value is not None}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(content))  # which is YAML, too
    return path


def done(path: Path, out: Path) -> Plan:
    """The plan of a study, after all its work."""
    plan = plan_study(path, None, out, None, "cpu")
    Worker(plan, "cpu", None).work(plan.tasks)
    return plan


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished study of two variants and a sampler, with two seeds, two lengths and a bound."""
    folder = tmp_path_factory.mktemp("study")
    variants = {"none": NONE, "blur": {}, "blur, ddim": {"sample": {"sampler": "ddim", "steps": 3}}}
    scores = [*STUDY["scores"], {"likelihood": 4, "split": "test"}]
    return done(written(folder, variants=variants, scores=scores), folder / "out")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Statistics


def test_intervals_are_those_of_scipy() -> None:
    ours, base = {0: 1.31, 3: 1.12, 7: 1.27, 9: 1.05}, {0: 1.02, 3: 1.11, 7: 1.09, 8: 5.0, 9: 0.9}
    low, high = stats.t.interval(0.95, 3, statistics.fmean(ours.values()), stats.sem([*ours.values()]))
    assert Spread(ours).half_width == pytest.approx((high - low) / 2, rel=1e-12)
    less = Spread(ours).less(Spread(base))
    assert less is not None
    own, other = [ours[seed] for seed in (0, 3, 7, 9)], [base[seed] for seed in (0, 3, 7, 9)]
    expected = stats.ttest_rel(own, other).confidence_interval(0.95)
    assert less.half_width is not None
    assert (less.mean - less.half_width, less.mean + less.half_width) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert half_width([1.0]) is None
    assert Spread({0: 1.0}).less(Spread({1: 1.0})) is None


@pytest.mark.parametrize(
    ("values", "text", "difference"),
    [
        ({0: 1.2345, 1: 1.2545}, "1.244 ± 0.014", "+1.24 ± 0.13"),
        ({0: -120.0, 1: -160.0}, "-140 ± 28", "-140 ± 254"),
        ({0: 0.5}, "0.5000", "+0.5000"),
        ({0: 0.5, 1: 0.5}, "0.5000", "+0.5000"),
    ],
)
def test_the_spread_decides_the_digits(values: dict[int, float], text: str, difference: str) -> None:
    assert (Spread(values).text, Spread(values).difference_text) == (text, difference)


# The file


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"preset": None}, r"tiny.yaml: preset: is missing"),
        ({"seads": [0]}, r"tiny.yaml: seads: unknown key; did you mean 'seeds'\?"),
        ({"seeds": [0, 1, 0]}, r"tiny.yaml: seeds: got .*0 is given twice"),
        ({"seeds": []}, r"tiny.yaml: seeds: got "),
        ({"seeds": True}, r"tiny.yaml: seeds: got "),
        ({"variants": {"none": {}, "b": {"data.channels": 1}}}, r"variants: b: data.channels is 1, and that of the study's"),
        (
            {"variants": {"none": {}, "b": {"score.n": 9}}},
            r"variants: b: score.n: is the same for all variants; use .* key scores",
        ),
        (
            {"variants": {"none": {}, "b": {"distill": "none", "trian.steps": 3}}},
            r"variants: b: trian: unknown key; did you mean 'train'",
        ),
        ({"variants": {"none": {}, "b": {"distill": "none", "train.steps": "3x"}}}, r"variants: b: train.steps: got '3x'"),
        ({"variants": {"none": {"weights": "shapes"}}, "equal_time": True}, r"equal_time: the base 'none' is no training"),
        ({"scores": [{"sampling": 3}]}, r"scores.0: sampling: unknown key"),
        ({"scores": []}, r"scores: got \[\]"),
        ({"seeds": 5000}, r"seeds: got 5000; a number counts the seeds, at most 1000; for the seed 5000 write \[5000\]"),
        ({"seeds": [-1]}, r"seeds: got \[-1\]; must be whole numbers from 0"),
        ({"seeds": "0"}, r"seeds: got '0'; must be whole numbers from 0"),
        ({"variants": {"none": {}, "b": {"preset": "shapes-blue"}}}, r"preset 'shapes-blue' is unknown"),
        ({"variants": {"none": {}, "b": {"preset": "shapes-noblur", "weights": "x"}}}, r"b: preset: is of a training"),
        ({"images": [8]}, r"steps and images: both are the lengths"),
        (
            {"variants": {"none": {"sample.sampler": "heat"}}},
            r"variants: none: sample: delta: sampler heat needs it",
        ),
        ({"steps": [0]}, r"tiny.yaml: steps: got \[0\]; must be whole numbers from 1"),
        ({"base": "nome"}, r"base: 'nome' is no variant; did you mean 'none'\? \(known: none, blur\)"),
        ({"variants": {}}, r"tiny.yaml: variants: got "),
        ({"variants": {"none": NONE, "same": NONE}}, r"variants: 'none' and 'same' are the same"),
        ({"variants": {"none": {}, "x": {"train.batch_size": 4}}}, r"variants: x: changes nothing: train.batch_size is 4"),
        ({"variants": {"none": {"process.blur_sigma": 0}}}, r"variants: none: process.blur_sigma: unknown key"),
        ({"variants": {"none": {"seed": 3}}}, r"variants: none: seed: is the same for all variants; use the study's key seeds"),
        ({"set": {"train.steps": 3}}, r"set: train.steps: is the same for all variants; use the study's key steps"),
        ({"variants": {"none": {}, "b": {"sample.stepz": 3}}}, r"variants: b: sample.stepz: unknown key; did you mean 'steps'"),
        ({"variants": {"none": {}, "b": {"sample.steps": 0}}}, r"variants: b: sample: steps: 0 must be a whole number from 1"),
        ({"variants": {"none": {}, "b": {"sample.sampler": "x"}}}, r"sampler: 'x' must be one of"),
        ({"variants": {"none": {}, "b": {"distill": "c"}}}, r"variants: b: distill: 'c' is no trained variant"),
        ({"variants": {"none": {}, "b": {"guide": "none@4"}}}, r"guide: 4 is none of the study's lengths \(3, 5\)"),
        ({"variants": {"none": {}, "b": {"guide": "nine@3"}}}, r"guide: 'nine' is no trained variant; did you mean 'none'"),
        ({"variants": {"none": {}, "b": {"guide": "none@x"}}}, r"guide: 'none@x': after @ comes a length of training"),
        ({"variants": {"none": {}, "b": {"weights": "x", **NONE}}}, r"process.blur_sigma_max: is of a training"),
        ({"variants": {"none": {}, "b": {"weights": 3}}}, r"weights: got 3; it must be a text"),
        ({"variants": {"none": {}, "a b": NONE, "a-b": {"optim.lr": 1}}}, r"too alike for the names of folders"),
        ({"variants": {"none": {}, "a@3": NONE}}, r"variants: a@3: a name has"),
        ({"scores": [{"feature": "pixels"}]}, r"scores.0.feature: unknown key; did you mean 'features'"),
        ({"scores": [{"sampler": "eiler"}]}, r"scores.0: sampler: 'eiler' must be one of"),
        ({"scores": [{"likelihood": 4, "n": 5}]}, r"scores.0: likelihood: takes no samples; leave out n"),
        ({"scores": [{"features": "net.pt"}]}, r"scores.0.features: got 'net.pt'"),
        ({"preset": "shapes-blue"}, r"preset 'shapes-blue' is unknown; did you mean 'shapes-blur'"),
    ],
)
def test_wrong_files_are_refused(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_study(written(tmp_path, **keys))


def test_names_that_are_numbers_need_quotes(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("preset: shapes-blur\nseeds: 1\nvariants: {0.5: {}}\n")
    with pytest.raises(UsageError, match=r"variants: the name 0.5 is not a text: put it in quotes"):
        load_study(path)


def test_folders_of_variants_are_no_files_of_the_study() -> None:
    assert (slug("table.md"), slug("logs"), slug("ratio 0.25"), slug("../x")) == (
        *("table.md-variant", "logs-variant", "ratio-0.25"),
        "-x",
    )
    long = [slug("\N{GRINNING FACE}" * 40 + end) for end in "ab"]
    assert long[0] != long[1]
    assert all(len(one.encode()) <= 110 for one in long)


def test_a_study_resolves_its_files(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: shapes-blur\ntrain.steps: 7\n")
    path = written(tmp_path, preset="mine.yaml", seeds=2, steps=None, base=None)
    study = load_study(path)
    assert (study.seeds, study.lengths, study.base) == ((0, 1), (7,), "none")
    assert study.variant("none").config.process.model_dump()["blur_sigma_max"] == 0
    other = load_study(written(tmp_path, variants={"mine": {}, "theirs": {"preset": "shapes-noblur"}}, base=None))
    assert other.variant("theirs").config == study.variant("none").config.model_copy(
        update={"train": study.variant("none").config.train.model_copy(update={"steps": 1600})}
    )
    with pytest.raises(UsageError, match="no such file; a study is a YAML file"):
        load_study(tmp_path / "absent.yaml")


# The plan


def test_variants_share_trainings(small: Plan) -> None:
    assert [(task.variant.name, task.seed) for task in small.tasks] == [("none", 0), ("blur", 0), ("none", 1), ("blur", 1)]
    assert not (small.folder / "blur--ddim").exists()
    of_sampler = {cell.mark for cell, _ in small.cells if cell.variant == "blur, ddim"}
    of_blur = {cell.mark for cell, _ in small.cells if cell.variant == "blur"}
    shared = {cell.mark for cell, _ in small.cells if cell.number == 1 and cell.variant == "blur"}
    assert of_sampler & of_blur == shared, "a bound does not depend on the sampler"


def test_parts_are_disjoint_and_complete(small: Plan) -> None:
    parts = [small.part(index, 3) for index in (1, 2, 3)]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert [task for part in parts for task in part if task not in small.tasks] == []
    assert len({task.run for part in parts for task in part}) == len(small.tasks)
    assert parse_part("2/8") == (2, 8)
    for text in ("0/2", "3/2", "1", "a/b", "-1/2"):
        with pytest.raises(UsageError, match="must be I/N"):
            parse_part(text)


@pytest.mark.parametrize(("name", "value"), [("n", 300), ("split", "test"), ("steps", 4), ("final", "noisy")])
def test_another_protocol_is_another_score(name: str, value: object, small: Plan, tmp_path: Path) -> None:
    changed = {**STUDY["scores"][0], name: value}
    plan = make_plan(load_study(written(tmp_path, scores=[changed])), small.folder, None)
    assert all(len(task.missing()) == len(task.cells) for task in plan.tasks)


def test_sample_keys_of_the_preset_are_those_of_scores(small: Plan, tmp_path: Path) -> None:
    plan = make_plan(load_study(written(tmp_path, set={**SET, "sample.steps": 9})), small.folder, None)
    assert {cell.request["steps"] for cell, _ in plan.cells} == {9}
    assert all(task.missing() for task in plan.tasks)


def test_what_needs_each_other_is_in_one_part(tmp_path: Path) -> None:
    variants = {"none": NONE, "few": {"distill": "none"}, "blur": {}, "led": {"optim.lr": 0.01, "guide": "blur@3"}}
    plan = plan_study(written(tmp_path, variants=variants), None, tmp_path / "out", None, "cpu")
    parts = [{(task.variant.name, task.seed) for task in plan.part(index, 4)} for index in (1, 2, 3, 4)]
    assert parts == [{("none", s), ("few", s)} if i == 0 else {("blur", s), ("led", s)} for s in (0, 1) for i in (0, 1)]


def test_a_changed_distillation_is_another_one(tmp_path: Path) -> None:
    def of(steps: int, lengths: list[int]) -> Any:
        variants = {"none": NONE, "few": {"distill": "none", "train.steps": steps}}
        plan = plan_study(written(tmp_path, variants=variants, steps=lengths, seeds=[0]), None, tmp_path / "out", None, "cpu")
        return plan.tasks[1].run

    assert of(3, [3]) == of(3, [3])
    assert len({of(3, [3]).path, of(4, [3]).path, of(3, [3, 5]).path}) == 3


def test_replaced_files_are_scored_anew(small: Plan, tmp_path: Path) -> None:
    files = [small.folder / "blur" / f"seed-{seed}" / "weights" / "step-00000005.safetensors" for seed in (0, 1)]
    marks = []
    for file in files:
        shutil.copy(file, tmp_path / "w.safetensors")
        variants = {"none": {"weights": "w.safetensors"}, "led": {"guide": "w.safetensors", "sample.guidance": 2}}
        plan = plan_study(written(tmp_path, variants=variants, seeds=[0], steps=[3]), None, tmp_path / "out", None, "cpu")
        marks.append({cell.variant: cell.mark for cell, _ in plan.cells})
    assert marks[0]["none"] != marks[1]["none"]
    assert marks[0]["led"] != marks[1]["led"]
    for name, message in (
        ("absent", r"variants: none: .*absent: "),
        ("led", r"is a variant, whose weights as a guide are written"),
    ):
        changed = {**variants, "none": {"guide": name, "sample.guidance": 2}}
        with pytest.raises(UsageError, match=message):
            plan_study(written(tmp_path, variants=changed), None, tmp_path / "out", None, "cpu")


def test_other_images_are_refused_and_moved_ones_are_not(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 60, 8, 8, 3), np.uint8)
    for folder, images in zip(("a", "b"), pixels, strict=True):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / f"{i}.png")
    keys = {key: value for key, value in SET.items() if key != "data.shapes_count"}
    path = written(
        tmp_path, preset="folder-small", set=keys, variants={"none": NONE}, seeds=[0], steps=[2], scores=[LIKELIHOOD]
    )

    def run(images: str) -> list[dict[str, Any]]:
        plan = plan_study(path, str(tmp_path / images), tmp_path / "out", None, "cpu")
        Worker(plan, "cpu", None).work(plan.tasks)
        return report_of(plan).rows

    rows = run("a")
    (tmp_path / "a").rename(tmp_path / "moved")
    assert run("moved") == rows
    with pytest.raises(
        UsageError, match=r"none/seed-0-steps-2: was trained on other images \(.*a\) than .*b; use another folder"
    ):
        run("b")


def test_scores_are_of_the_studys_images(tmp_path: Path) -> None:
    variants = {"none": NONE, "few": {"data.shapes_count": 230}}
    plan = done(written(tmp_path, variants=variants, seeds=[0], steps=[2]), tmp_path / "out")
    assert [row["reference_images"] for row in report_of(plan).rows] == [256, 256]


def test_damaged_records_are_missing_scores(small: Plan, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small.folder, tmp_path / "copy"))
    path = folder / "none" / "seed-0" / "evaluations.jsonl"
    damaged = [{**line, **({"fd": float("nan")} if "fd" in line else {})} for line in lines(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in damaged) + "{}\n[1]\ntext")
    (folder / "speeds.jsonl").write_text('{}\n{"sec": 0}\n')
    plan = make_plan(small.study, folder, None)
    assert len(report_of(plan).rows) == len(small.cells) - 2
    assert sum(len(plan.left(task)) for task in plan.tasks) == 2


def test_folders_of_something_else_are_refused(small: Plan, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").touch()
    with pytest.raises(UsageError, match="is not the folder of a study; use another one with `out`"):
        plan_study(written(tmp_path), None, tmp_path / "photos", None, "cpu")
    changed = {"none": NONE, "blur": {"optim.lr": 1e-4}}
    with pytest.raises(UsageError, match=r"blur/seed-0: holds a training of another study[^$]*optim.lr: 0.0015 -> 0.0001"):
        plan_study(written(tmp_path, variants=changed), None, small.folder, None, "cpu")
    with pytest.raises(UsageError, match=r"was trained to step 5, and the weights of step 4, .*, were not kept"):
        plan_study(written(tmp_path, steps=[4, 5]), None, small.folder, None, "cpu")


# Trainings and scores


def test_the_table_is_that_of_the_recorded_lines(small: Plan) -> None:
    report = report_of(small)
    recorded = {
        (variant, seed): lines(small.folder / variant / f"seed-{seed}" / "evaluations.jsonl")
        for variant in ("none", "blur")
        for seed in (0, 1)
    }
    fd = {
        (variant, seed, step): next(line["fd"] for line in found if line.get("step") == step and line.get("sampler") == "abm")
        for (variant, seed), found in recorded.items()
        for step in (3, 5)
    }
    row = next(one for one in report.summary() if (one["at"], one["variant"], one["metric"]) == ("5", "blur", "fd"))
    own, base = ([fd[name, seed, 5] for seed in (0, 1)] for name in ("blur", "none"))
    assert row["mean"] == statistics.fmean(own)
    assert row["std"] == statistics.stdev(own)
    pairs = [a - b for a, b in zip(own, base, strict=True)]
    assert row["difference"] == pytest.approx(statistics.fmean(pairs), rel=1e-12)
    assert row["difference_half_width"] == pytest.approx(12.7062047 * statistics.stdev(pairs) / math.sqrt(2), rel=1e-6)
    assert row["pairs"] == 2
    titles, rows = report.table()
    assert titles[:4] == ["training steps", "variant", "seeds", "calls"]
    assert titles[4:] == ["FD", "FD less none", "precision", "bits/dim", "bits/dim less none"]
    named = [("3", "none", "2", "2"), ("3", "blur", "2", "2"), ("3", "blur, ddim", "2", "3")]
    assert [tuple(line[:4]) for line in rows[:3]] == named
    assert rows[0][5] == ""
    assert rows[4][4] == Spread(dict(enumerate(own))).text


def test_samplers_and_bounds_are_scored(small: Plan) -> None:
    for row in report_of(small).rows:
        if row["score"] == 0:
            expected = ("ddim", 3) if row["variant"] == "blur, ddim" else ("abm", 2)
            assert (row["sampler"], row["steps"]) == expected
        else:
            assert row["bits_per_dim"] > 0
        assert row["seed"] in (0, 1)
    found = lines(small.folder / "blur" / "seed-0" / "evaluations.jsonl")
    assert len(found) == 2 * 3, "two lengths; abm, ddim, and one bound"


def test_a_score_is_that_of_fid_and_samples_are_made_once(tmp_path: Path, cli: Cli, monkeypatch: Any) -> None:
    made: list[int] = []
    generate = Pipeline.generate

    def counted(self: Pipeline, indices: Any, seed: int, *rest: Any, **options: Any) -> Any:
        made.append(seed)
        return generate(self, indices, seed, *rest, **options)

    monkeypatch.setattr(Pipeline, "generate", counted)
    scores = [{"features": "pixels"}, {"features": "pixels", "split": "test"}]
    plan = done(written(tmp_path, variants={"none": NONE}, seeds=[4], steps=[3], scores=scores), tmp_path / "out")
    assert made == [4]
    for row in report_of(plan).rows:
        scored = cli("fid", "--run", plan.tasks[0].run.path, "--seed", 4, "--split", row["split"], "--json")
        assert json.loads(scored.out)["fd"] == row["fd"], scored.err


def test_a_training_is_that_of_train(small: Plan, tmp_path: Path) -> None:
    flat = ["data.shapes_count=256", "train.precision=fp32", "process.blur_sigma_max=0", "train.steps=5", "seed=1"]
    ran = shell("train", "--preset", "shapes-blur", "--run", "own", *settings(*flat), cwd=tmp_path)
    assert ran.code == 0, ran.err
    own, ours = (
        load_file(folder / "weights" / "step-00000005.safetensors")
        for folder in (tmp_path / "own", small.folder / "none" / "seed-1")
    )
    assert own.keys() == ours.keys()
    assert all(torch.equal(own[key], ours[key]) for key in own)


def test_what_is_done_is_not_done_again_and_can_be_extended(small: Plan, tmp_path: Path, monkeypatch: Any) -> None:
    trained: list[tuple[str, int, int]] = []
    real = Worker._train

    def counted(self: Worker, task: Any, steps: int) -> None:
        trained.append((task.variant.name, task.seed, steps))
        real(self, task, steps)

    monkeypatch.setattr(Worker, "_train", counted)
    before = {path: path.read_bytes() for path in small.folder.rglob("evaluations.jsonl")}
    done(small.study.path, small.folder)
    assert trained == []
    assert all(path.read_bytes() == content for path, content in before.items())
    content = yaml.safe_load(small.study.path.read_text())
    variants = {"slow": {"optim.lr": 1e-5}, **content["variants"]}
    extended = written(tmp_path, **{**content, "variants": variants, "seeds": [2, 1, 0], "steps": [3, 6, 5]})
    plan = done(extended, small.folder)
    assert len(trained) == len(set(trained)) == 3 * 3 + 2 * (3 + 2), "slow: all; others: seed 2, and step 6"
    assert not plan.failures()
    rows = report_of(plan).rows
    assert len(rows) == len(plan.cells) == 4 * 3 * 3 * 2
    after = (small.folder / "blur" / "seed-0" / "evaluations.jsonl").read_bytes()
    assert after.startswith(before[small.folder / "blur" / "seed-0" / "evaluations.jsonl"])


def test_two_processes_and_jobs_share_the_work(tmp_path: Path) -> None:
    path = written(tmp_path, steps=[2], seeds=[0, 1, 2])
    first = Process("study", path, "--out", "out", "--jobs", "2", cwd=tmp_path)
    second = Process("study", path, "--out", "out", cwd=tmp_path)
    results = first.result(), second.result()
    assert [one.code for one in results] == [0, 0], results
    runs = sorted((tmp_path / "out").glob("*/seed-*"))
    assert len(runs) == 6
    for run in runs:
        assert len(lines(run / "sessions.jsonl")) == 1, "trained once"
        assert len(lines(run / "evaluations.jsonl")) == 1, "scored once"
    assert results[0].out == results[1].out


def test_what_another_process_does_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_study(written(tmp_path, steps=[2], seeds=[0]), None, tmp_path / "out", None, "cpu")
    worker = Worker(plan, "cpu", None)

    def waits(seconds: float) -> None:
        raise TimeoutError

    monkeypatch.setattr("blurcli.workflows.study.time.sleep", waits)
    with files.locked(worker._lock(plan.tasks[0]), "training", print), pytest.raises(TimeoutError):
        worker.work(plan.tasks)
    assert [row["variant"] for row in report_of(plan).rows] == ["blur"]


def test_a_stopped_study_continues(tmp_path: Path) -> None:
    path = written(tmp_path, steps=[400], seeds=[0], variants={"none": NONE})
    running = Process("study", path, "--out", "out", cwd=tmp_path)
    metrics = tmp_path / "out" / "none" / "seed-0" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert running.running
        time.sleep(0.05)
    running.signal(signal.SIGINT)
    stopped = running.result()
    assert stopped.code == 130
    assert "the same command continues" in stopped.err
    weights = tmp_path / "out" / "none" / "seed-0" / "weights"
    assert not (weights / "step-00000400.safetensors").exists()
    again = shell("study", path, "--out", "out", cwd=tmp_path)
    assert again.code == 0, again.err
    whole = shell("study", path, "--out", "whole", cwd=tmp_path)
    assert whole.out == again.out


def test_a_diverging_training_is_named_and_the_others_go_on(tmp_path: Path, monkeypatch: Any) -> None:
    led = {**NONE, "guide": "wild@3", "sample.guidance": 2}
    variants = {"none": NONE, "led": led, "wild": {"optim.lr": 0.5}, "few": {"distill": "wild"}}
    plan = plan_study(written(tmp_path, variants=variants, seeds=[0]), None, tmp_path / "out", None, "cpu")
    real, tries = Worker._train, []

    def diverging(self: Worker, task: Any, steps: int | None) -> None:
        if task.variant.name == "wild":
            tries.append(steps)
            task.run.path.mkdir(parents=True, exist_ok=True)
            raise DivergedError("the training diverged")
        real(self, task, steps)

    monkeypatch.setattr(Worker, "_train", diverging)
    for _ in range(2):
        Worker(plan, "cpu", None).work(plan.tasks)
    assert tries == [3], "not tried again"
    report = report_of(plan)
    assert [row["variant"] for row in report.rows] == ["none", "none"]
    caption = "\n".join(report.caption())
    assert "Failed: wild, seed 0: the training diverged" in caption
    assert "Failed: few, seed 0: its teacher failed" in caption
    assert "Failed: led, seed 0: its guide failed" in caption
    assert "5 of 7 scores are missing." in caption


def test_weights_distillations_and_guides_are_variants(small: Plan, tmp_path: Path) -> None:
    weights = small.folder / "blur" / "seed-1" / "weights" / "step-00000005.safetensors"
    variants = {
        "blur": {},
        "theirs": {"weights": str(weights)},
        "few": {"distill": "blur", "train.steps": 4, "sample.steps": 1},
        "few, 2": {"distill": "blur", "train.steps": 4, "sample.steps": 2},
        "guided": {"guide": "blur@3", "sample.guidance": 2.0},
    }
    scores = [*STUDY["scores"], {"likelihood": 4}]
    path = written(tmp_path, variants=variants, base="blur", seeds=[1], steps=[3, 5], scores=scores)
    plan = done(path, tmp_path / "out")
    weaker = load_weights(plan.tasks[0].run.weights_path(3))
    report = report_of(plan)
    assert {row["variant"] for row in report.rows if row["score"] == 1} == {"blur", "theirs", "guided"}
    rows = {(row["variant"], row["at"]): row for row in report.rows if row["score"] == 0}
    assert len(rows) == 8, "the distillation has one length"
    assert rows["theirs", "3"]["fd"] == rows["theirs", "5"]["fd"] == rows["blur", "5"]["fd"]
    assert (rows["few", "5"]["sampler"], rows["few", "5"]["steps"], rows["few", "5"]["train_steps"]) == ("consistency", 1, 4)
    assert rows["few, 2", "5"]["steps"] == 2
    assert rows["few, 2", "5"]["weights_sha256"] == rows["few", "5"]["weights_sha256"]
    assert rows["guided", "5"]["guide"] == content_hash(dict(weaker.network))[:16]
    assert rows["guided", "5"]["guidance"] == 2.0
    folders = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir() and path.name[0] != ".")
    assert [name[:4] for name in folders] == ["blur", "few-", "thei"]


def test_equal_time(tmp_path: Path, monkeypatch: Any) -> None:
    seconds = {"none": 0.01, "deep": 0.02, "blur": 0.01}
    measured: list[str] = []

    def speed(config: Any, device: str, name: str) -> float:
        measured.append(name)
        return seconds[name]

    monkeypatch.setattr("blurcli.workflows.study_setup._step_sec", speed)
    variants = {"none": NONE, "deep": {**NONE, "model.blocks_per_level": 2}, "blur": {}}
    path = written(tmp_path, variants=variants, seeds=[0], steps=[6], equal_time=True)
    plan = done(path, tmp_path / "out")
    rows = {(row["variant"], row["at"]): row["train_steps"] for row in report_of(plan).rows}
    assert rows == {
        ("none", "6"): 6,
        ("deep", "6"): 6,
        ("blur", "6"): 6,
        ("none", "equal time"): 6,
        ("deep", "equal time"): 3,
        ("blur", "equal time"): 6,
    }
    assert ["equal time (3)", "deep", "1"] in [row[:3] for row in report_of(plan).table()[1]]
    plan_study(path, None, tmp_path / "out", None, "cpu")
    assert measured == ["none", "deep", "blur"], "measured once and kept"


def test_a_cooled_training_of_each_length_is_one_of_its_own(tmp_path: Path) -> None:
    """What it learns depends on its length; the guide is the training of the length that is named."""
    variants = {"cooled": {"optim.cooldown": 1}, "guided": {"optim.cooldown": 1, "guide": "cooled@3", "sample.guidance": 2.0}}
    plan = done(written(tmp_path, variants=variants, base="cooled", seeds=[1]), tmp_path / "out")
    trained = {task.lengths[0]: task for task in plan.tasks}
    assert {steps: (task.config.train.steps, task.lengths) for steps, task in trained.items()} == {3: (3, [3]), 5: (5, [5])}
    for steps, task in trained.items():
        assert lines(task.run.metrics_path)[-1]["lr"] == pytest.approx(task.config.optim.lr / steps)
    weights = {steps: load_weights(task.run.weights_path(steps)) for steps, task in trained.items()}
    rows = {(row["variant"], row["at"]): row for row in report_of(plan).rows}
    assert rows["cooled", "3"]["weights_sha256"] != rows["cooled", "5"]["weights_sha256"]
    assert rows["guided", "5"]["guide"] == content_hash(dict(weights[3].network))[:16]
    assert rows["guided", "5"]["weights_sha256"] == rows["cooled", "5"]["weights_sha256"]
    assert len(plan.part(1, 2)) + len(plan.part(2, 2)) == 2


def test_lengths_in_images_are_equal_for_all_batch_sizes(tmp_path: Path) -> None:
    variants = {"four": {}, "eight": {"train.batch_size": 8}}
    path = written(tmp_path, variants=variants, base="four", seeds=[0], steps=None, images=[16, 24])
    plan = plan_study(path, None, tmp_path / "out", None, "cpu")
    assert {(cell.variant, cell.at): cell.steps for cell, _ in plan.cells} == {
        ("four", "16"): 4,
        ("four", "24"): 6,
        ("eight", "16"): 2,
        ("eight", "24"): 3,
    }
    assert [task.config.train.steps for task in plan.tasks] == [6, 3]


def test_heat_is_a_variant(tmp_path: Path) -> None:
    process = {"kind": "heat", "blur_sigma_max": 4, "levels": 8}
    heat = {"process": process, "optim.time_sampling": "uniform", "sample": {"sampler": "heat", "steps": 8, "delta": 0.0125}}
    plan = done(written(tmp_path, variants={"blur": {}, "heat": heat}, base="blur", seeds=[0], steps=[2]), tmp_path / "out")
    assert [row["sampler"] for row in report_of(plan).rows] == ["abm", "heat"]


def test_scores_that_cannot_be_measured_are_found_first(tmp_path: Path, inception_file: Path) -> None:
    for scores, message in (
        ([{"features": "pixels", "n": 20}], r"scores: n 20: too few for the 192 features"),
        ([{"features": "pixels", "metrics": ["fid"]}], r"metrics: 'fid' is not measured here \(known: fd, "),
        ([{"features": "file"}], r"scores: features: file: name the network's file with `features` FILE"),
    ):
        path = written(tmp_path, scores=scores)
        with pytest.raises(UsageError, match=message):
            done(path, tmp_path / "out")
    with pytest.raises(UsageError, match="no score of the study has features: file"):
        plan_study(written(tmp_path), None, tmp_path / "out", inception_file, "cpu")
    assert not list((tmp_path / "out").glob("*/seed-*"))


# The command


def test_the_command_writes_tables_and_plots(small: Plan, cli: Cli) -> None:
    out = cli("study", small.study.path, "--out", small.folder)
    assert out.code == 0, out.err
    assert "difference" in out.out
    for name in ("scores.png", "scores.svg", "training.png", "training.svg"):
        assert (small.folder / name).stat().st_size > 1000
    titles, rows = report_of(small).table()
    tex = (small.folder / "table.tex").read_text()
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len(body) == 1 + len(rows)
    assert all(line.count(" & ") == len(titles) - 1 for line in body)
    assert [line[2:] for line in tex.splitlines() if line.startswith("% ")] == report_of(small).caption()
    table = (small.folder / "table.md").read_text().split("\n\n")[0].splitlines()
    assert len({line.count("|") for line in table}) == 1
    with (small.folder / "scores.csv").open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(report_of(small).rows)
    assert {row["variant"] for row in read} == {"none", "blur", "blur, ddim"} | (
        {"slow"} if "slow" in small.study.path.read_text() else set()
    )
    as_json = json.loads(cli("study", small.study.path, "--out", small.folder, "--json").out)
    assert as_json.keys() == {"folder", "summary", "rows", "files"}


def test_a_dry_run_does_nothing(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blurcli.workflows.study_setup._step_sec", lambda config, device, name: 0.5)
    path = written(tmp_path)
    shown = cli("study", path, "--out", "out", "--dry-run", "--json")
    found = json.loads(shown.out)
    assert [(one["variant"], one["trainings"], one["done"], one["steps"]) for one in found["variants"]] == [
        ("none", 2, 0, 5),
        ("blur", 2, 0, 5),
    ]
    assert found["mib"] > 0
    forward = 200 * 2 / 3 / 4  # of the scores: 200 images, 2 calls, at a third of a step of 4 images
    assert found["seconds"] == pytest.approx(4 * 0.5 * (5 + 2 * forward))
    assert not Path("out").exists()
    text = cli("study", path, "--out", "out", "--dry-run").out
    assert "4 trainings, 8 scores" in text


def test_python_returns_plain_rows(small: Plan) -> None:
    import blurcli

    rows = blurcli.study(small.study.path, out=small.folder, device="cpu")
    assert len(rows) == len(small.cells)
    assert all(isinstance(row["fd"] if row["score"] == 0 else row["bits_per_dim"], float) for row in rows)
    assert {"variant", "seed", "at", "train_steps", "score", "run"} <= rows[0].keys()


# Tables


def test_tables_escape_what_their_format_means() -> None:
    titles, rows = ["name_a", "n"], [["a|b & 5% \\x", "1,000"], ["p ± q\nr", "-2.5 ± 0.1"]]
    markdown = write_table(titles, rows, "markdown").splitlines()
    assert markdown[1] == "| --- | ---: |"
    assert markdown[2] == r"| a\|b & 5% \x | 1,000 |"
    assert markdown[3] == "| p ± q r | -2.5 ± 0.1 |"
    latex = write_table(titles, rows, "latex")
    assert r"\begin{tabular}{lr}" in latex
    assert r"name\_a & n \\" in latex
    assert r"a|b \& 5\% \textbackslash{}x & 1,000 \\" in latex
    assert r"p $\pm$ q r & $-$2.5 $\pm$ 0.1 \\" in latex
    assert list(csv.reader(write_table(titles, rows, "csv").splitlines(keepends=True))) == [titles, *rows]


def test_results_and_plots_take_a_study(small: Plan, cli: Cli, tmp_path: Path) -> None:
    shown = cli("results", small.folder)
    assert shown.code == 0, shown.err
    assert "none/seed-{0,1" in shown.out
    drawn = cli("plot", small.folder, "--out", "plots", "--format", "pdf")
    assert drawn.code == 0, drawn.err
    assert (tmp_path / "plots" / "loss.pdf").stat().st_size > 1000
    refused = cli("plot", small.folder, "--out", "plots.pdf")
    assert (refused.code, Path("plots.pdf").exists()) == (2, False)
