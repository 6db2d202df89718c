"""Run folders as people treat them: named, linked, damaged, and of other versions."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli
from safetensors.torch import load_file, save_file

import blurcli as bd
from blurcli.base import checkpoint, files
from blurcli.base.errors import UserError, quoted
from blurcli.base.runs import RUNS, Run
from blurcli.cli import completion
from blurcli.model.weights import load_weights
from blurcli.training.state import load_state

TORN = b'\xff\xfe\x00{"step": 7, "lo'
NEWEST = "step-00000003.safetensors"


@pytest.fixture
def whole(tiny_run: Path, tmp_path: Path) -> Path:
    """A run in `runs/`."""
    return Path(shutil.copytree(tiny_run, tmp_path / "runs" / "my pictures")).relative_to(tmp_path)


def annexed(name: str, step: int = 1) -> Path:
    """A run whose weights are a link to a file that is not here, and newer than those of others."""
    link = Run(RUNS / name).weights_path(step)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("/nowhere/annex-object")
    return link


# Which run is the newest


@pytest.mark.parametrize(
    "command",
    [
        ("sample", "--n", 1, "--steps", 1, "--out", "x.npz"),
        ("animate", "x.gif", "--n", 1, "--steps", 2),
        ("plot",),
        ("export", "x.safetensors"),
        ("results",),
    ],
)
def test_the_newest_run_that_can_be_read_is_used(cli: Cli, whole: Path, command: tuple[object, ...]) -> None:
    link = annexed("annexed")
    (RUNS / "annexed" / "evaluations.jsonl").symlink_to("/nowhere/else")
    (RUNS / "file").write_text("no run")
    (RUNS / "dangling").symlink_to("/nowhere")
    (RUNS / "odd").mkdir()
    (RUNS / "odd" / "weights").write_text("no folder")
    done = cli(*command)
    assert (done.code, "bug" in done.err) == (0, False)
    if command[0] != "results":
        assert f"skipped {link}: is a link to /nowhere/annex-object, which is not here; fetch its content" in done.err
    if command[0] not in ("results", "plot"):
        assert f"using {whole}/weights/{NEWEST}" in done.err


def test_weights_that_go_while_runs_are_listed(cli: Cli, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `train.keep` in another process removes them."""
    all_weights = Run.all_weights
    listed: list[Path] = []

    def outdated(run: Run) -> list[Path]:
        found = all_weights(run)
        if run.path == whole and not listed:
            listed.extend(found)
            found[-1].rename(run.weights_path(9))
        return found if listed and found != listed else listed

    monkeypatch.setattr(Run, "all_weights", outdated)
    assert "step-00000009" in cli("sample", "--n", 1, "--steps", 1, "--out", "x.npz").err


@pytest.mark.parametrize("command", [("sample", "--run"), ("plot",), ("report",), ("results",), ("fid", "--run")])
def test_what_is_no_run_is_said(cli: Cli, command: tuple[str, ...]) -> None:
    """Instead of its own name as a suggestion, or a training that would be refused."""
    RUNS.mkdir()
    (RUNS / "nowhere").symlink_to("/nowhere")
    (RUNS / "circle").symlink_to("circle")
    for name, reason in {"nowhere": "is a link to /nowhere, which is not here", "circle": "cannot be read"}.items():
        for word in (name, RUNS / name):
            done = cli(*command, word)
            assert (done.code, done.out) == (2, "")
            assert done.err.startswith(f"error: runs/{name}: {reason}")


def test_a_folder_of_something_else_is_no_run(cli: Cli, photos: Path) -> None:
    assert cli("sample", "--run", photos).err == f"error: {photos}: not a run folder\n"
    assert cli("sample", "--run", photos / "0.png").err == f"error: {photos}/0.png: a file, not a run folder\n"


def test_copies_of_weights_under_other_names_are_left_alone(cli: Cli, whole: Path) -> None:
    """They are neither the newest weights nor removed by `train.keep`."""
    copies = [whole / "weights" / f"step-{end}.safetensors" for end in ("00000003 (1)", "00000003-best", "best")]
    for copy in copies:
        shutil.copy(whole / "weights" / NEWEST, copy)
    assert Run(whole).newest_step() == 3
    assert f"using {whole}/weights/{NEWEST}" in cli("sample", "--n", 1, "--steps", 1, "--out", "x.npz").err
    done = cli("train", "--run", whole, "--set", "train.steps=5", "--set", "train.keep=1")
    assert done.code == 0, done.err
    assert sorted((whole / "weights").iterdir()) == sorted([*copies, Run(whole).weights_path(5)])


def test_a_run_of_somebody_else(cli: Cli, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (RUNS / "secret").mkdir()
    last_weights = Run.last_weights

    def refused(run: Run) -> Path | None:
        if run.path.name == "secret":
            raise PermissionError(13, "Permission denied", str(run.path))
        return last_weights(run)

    monkeypatch.setattr(Run, "last_weights", refused)
    done = cli("sample", "--n", 1, "--steps", 1, "--out", "x.npz")
    assert (done.code, "skipped runs/secret: cannot be read (Permission denied)" in done.err) == (0, True)
    done = cli("sample", "--run", "secret", "--n", 1)
    assert (done.code, "secret: Permission denied" in done.err, "bug" in done.err) == (1, True, False)


def test_links_to_nowhere_are_named(cli: Cli, whole: Path) -> None:
    link = annexed("annexed")
    (RUNS / "old.safetensors").symlink_to("gone")
    for arguments in (("--run", "annexed"), ("--weights", link)):
        done = cli("sample", *arguments, "--n", 1)
        assert done.code == 2
        assert f"{link}: is a link to /nowhere/annex-object, which is not here; fetch its content" in done.err
    shutil.rmtree(whole)
    done = cli("sample", "--n", 1)
    assert (done.code, "is a link to /nowhere/annex-object" in done.err) == (2, True)


def test_a_training_does_not_begin_again_over_a_linked_state(cli: Cli, whole: Path) -> None:
    Run(whole).state_path.rename(Run(whole).previous_state_path)
    Run(whole).state_path.symlink_to("/nowhere/state")
    done = cli("train", "--run", whole, "--set", "train.steps=4")
    assert done.code == 1
    assert f"{whole}/state.safetensors: is a link to /nowhere/state, which is not here; fetch its content" in done.err
    assert Run(whole).state_path.is_symlink()


@pytest.mark.parametrize("put", [lambda: RUNS.write_text("a file"), lambda: RUNS.symlink_to("nowhere")], ids=["file", "link"])
def test_runs_is_no_folder(cli: Cli, put: Callable[[], object], tmp_path: Path) -> None:
    put()
    assert "using the bundled model" in cli("sample", "--n", 1, "--steps", 1, "--out", "x.npz").err
    assert completion.runs("") == []
    assert cli("results").code == 0


# How a run is named


@pytest.mark.parametrize(
    "command",
    [
        ("sample", "--n", 1, "--steps", 1, "--out", "x.npz", "--run"),
        ("likelihood", "--n", 2, "--data", "shapes", "--run"),
        ("export", "x.safetensors", "--run"),
        ("plot",),
        ("train", "--set", "train.steps=4", "--run"),
        ("distill", "--dry-run"),
    ],
)
def test_a_run_is_found_by_its_name_in_runs(cli: Cli, whole: Path, command: tuple[object, ...]) -> None:
    done = cli(*command, "my pictures")
    assert done.code == 0, done.err
    assert not Path("my pictures").exists()
    if command[0] == "train":
        assert "--run my pictures: no such run here; using runs/my pictures" in done.err
    Path("x.safetensors").unlink(missing_ok=True)
    wrong = cli(*command, "my picture")
    assert wrong.code != 0
    assert command[0] in ("train", "distill") or "did you mean 'my pictures'?" in wrong.err


def test_a_run_as_weights(cli: Cli, whole: Path) -> None:
    for name in (whole.name, whole):
        refused = cli("sample", "--weights", name)
        assert refused.err == f"error: --weights {name}: a folder, not a weights file; for a run use: --run {quoted(name)}\n"
    guided = cli("sample", "--run", whole, "--guide", whole.name, "--guidance", 1.5, "--n", 1, "--steps", 1, "--out", "x.npz")
    assert guided.code == 0, guided.err
    with pytest.raises(UserError, match="my picture: no such file or run folder; did you mean 'my pictures'"):
        bd.load("my picture")


def test_a_folder_here_comes_first(cli: Cli, whole: Path) -> None:
    shutil.copytree(whole, "here")
    shutil.copytree(whole, RUNS / "here")
    sample = ("sample", "--n", 1, "--steps", 1, "--out", "x.npz", "--run")
    assert "using here/weights" in cli(*sample, "here").err
    shutil.rmtree("here")
    Path("here").mkdir()
    assert "here: has no weights yet" in cli(*sample, "here").err
    Path("here/photo.png").touch()  # the images of the run with their name
    assert "using runs/here/weights" in cli(*sample, "here").err
    assert bd.load("my pictures").path == whole / "weights" / NEWEST
    shutil.copytree(whole, RUNS / "shapes")
    assert bd.load("shapes").run is None  # the bundled model
    assert completion.runs("my") == ["my pictures"]


@pytest.mark.parametrize("word", ["a b", "a&b", "it's", "日本", "-x", "$HOME", "~x", "a;b"])
def test_suggested_words_are_as_a_shell_reads_them(word: str) -> None:
    (read,) = shlex.split(quoted(word))
    assert Path(read) == Path(word)
    assert not read.startswith("-")


def test_suggested_commands_hold_the_names_of_runs(cli: Cli, tiny_run: Path) -> None:
    run = Path(shutil.copytree(tiny_run, "runs/a & b"))
    shutil.rmtree(run / "weights")
    missing = cli("sample", "--run", "a & b").err
    assert "train it with: blurdiff train --run 'runs/a & b'" in " ".join(missing.split())
    assert "blurdiff fid --run 'runs/a & b'" in " ".join(cli("results", run).err.split())


# Damaged lines


def test_a_training_continues_over_damaged_lines(cli: Cli, whole: Path) -> None:
    run = Run(whole)
    records = [run.metrics_path, run.health_path, run.sessions_path, run.evaluations_path]
    before = {}
    for path in records:
        lines = path.read_bytes() if path.exists() else b""
        good = lines.replace(b"{", b'{ "note": "\xc3\xa9",', 1) if path == run.metrics_path else lines
        path.write_bytes(good.replace(b"\n", b"\n\0\0\n[1]\n", 1) + TORN)
        before[path] = good
    (whole / "trackers").mkdir()
    (whole / "trackers" / "wandb.id").write_bytes(TORN)
    config = run.config_path.read_bytes()
    run.config_path.write_bytes(config[:50] + bytes(20))
    done = cli("train", "--run", whole, "--set", "train.steps=4")
    assert done.code == 0, done.err
    assert f"{run.config_path}: was missing or damaged; written again from {run.state_path}" in done.err
    assert f"{run.metrics_path}: dropped 3 of 6 lines, which cannot be read" in done.err
    assert b"".join(run.metrics_path.read_bytes().splitlines(keepends=True)[:-1]) == before[run.metrics_path]
    for path in (run.sessions_path, run.evaluations_path):
        assert all(line in path.read_bytes() for line in before[path].splitlines())
    assert [session["step"] for session in files.json_lines(run.sessions_path)] == [0, 3]
    assert cli("report", whole, "--no-animation").code == 0


def test_an_edited_config_is_not_replaced(cli: Cli, whole: Path) -> None:
    Run(whole).config_path.write_text("seed: [")
    done = cli("train", "--run", whole, "--set", "train.steps=4")
    assert (done.code, "not valid YAML" in done.err) == (2, True)


# Other versions


def of_version(path: Path, version: str | None, **changes: str) -> None:
    """Change the metadata of a file, with the checksum that belongs to them."""
    kind = "state" if path.name.startswith("state") else "weights"
    metadata, tensors = checkpoint.read(path, kind)
    metadata |= changes
    metadata.pop("blurdiff")
    if version is not None:
        metadata["blurdiff"] = version
    save_file(load_file(path), path, {**metadata, "sha256": checkpoint.content_hash(tensors, metadata)})


def config_with(metadata: str, key: str, value: object) -> str:
    return json.dumps({**json.loads(metadata), key: value})


ADVICE = f"; blurdiff 9.1 wrote it, and this is {bd.__version__}: use that version (pip install blurdiff==9.1)"


def test_files_name_the_version_that_wrote_them(cli: Cli, whole: Path) -> None:
    weights, state = whole / "weights" / NEWEST, Run(whole).state_path
    config = checkpoint.read(weights, "weights")[0]["config"]
    for read, path in ((load_weights, weights), (load_state, state)):
        kept = path.read_bytes()
        for changes in ({"config": config_with(config, "novelty", 1)}, {"config": config_with(config, "objective", "new")}):
            of_version(path, "9.1", **changes)
            with pytest.raises(UserError) as error:
                read(path)
            assert str(error.value).endswith(ADVICE)
            path.write_bytes(kept)
        for changes in ({"format_version": "2"}, {"kind": "sketch"}):
            of_version(path, "9.1", **changes)
            with pytest.raises(UserError) as error:
                read(path)
            assert str(error.value).endswith(ADVICE)
            path.write_bytes(kept)
        of_version(path, bd.__version__, config=config_with(config, "novelty", 1))
        with pytest.raises(UserError) as error:
            read(path)
        assert "wrote it" not in str(error.value)
        path.write_bytes(kept)


def test_runs_name_the_version_that_wrote_them(cli: Cli, whole: Path) -> None:
    run = Run(whole)
    session = json.loads(run.sessions_path.read_text())
    run.sessions_path.write_text(json.dumps(session | {"versions": {"blurdiff": "9.1"}}) + "\n")
    of_version(whole / "weights" / NEWEST, None, config='{"novelty": 1}')  # as the versions before wrote none into weights
    config = run.config_path.read_text()
    differing = cli("train", "--run", whole, "--set", "optim.lr=0.5")
    assert (differing.code, ADVICE[2:] in " ".join(differing.err.split())) == (2, True)
    run.config_path.write_text(config + "novelty: 1\n")
    for command in (("train", "--run", whole), ("sample", "--run", whole, "--n", 1)):
        done = cli(*command)
        assert (done.code, ADVICE[2:] in " ".join(done.err.split())) == (2, True), done.err
    run.config_path.write_text(config)
    mistyped = cli("train", "--run", whole, "--set", "optim.lrr=0.5")
    assert (mistyped.code, "wrote it" in mistyped.err) == (2, False)
