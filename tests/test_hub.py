"""Weights on the Hugging Face hub, from a hub on this machine: references, downloads, uploads, and all that goes wrong."""

import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Cli, settings
from hub_server import Hub, hub_server
from processes import Process, Result

from blurcli import hub
from blurcli.base.checkpoint import content_hash
from blurcli.base.errors import UsageError, UserError
from blurcli.config import load_run_config
from blurcli.hub import client
from blurcli.model.weights import load_weights, save_weights
from blurcli.workflows import model_card

pytest.importorskip("huggingface_hub", reason="needs the package huggingface_hub")


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub_server() as running:
        yield running


def impatient() -> None:
    """The library waits a second before it tries again."""
    time.sleep = lambda seconds: None


Command = Callable[..., Result]


@pytest.fixture
def command(server: Hub, tmp_path: Path) -> Command:
    """Run a command line in a process of its own: the hub's library reads its environment when it is imported."""

    def run(*arguments: object, before: Callable[[], None] = impatient, **variables: str) -> Result:
        environment = {
            "HF_ENDPOINT": server.address,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "",
            "HF_HUB_DISABLE_XET": "1",
            **variables,
        }
        return Process(*arguments, cwd=tmp_path, environment=environment, before=before).result()

    return run


@pytest.fixture
def exported(cli: Cli, tiny_run: Path, tmp_path: Path) -> Path:
    path = tmp_path / "exported.safetensors"
    assert cli("export", path, "--run", tiny_run).code == 0
    return path


def images(path: Path) -> np.ndarray:
    with np.load(path) as content:
        return np.array(content["arr_0"])


def cached(tmp_path: Path) -> list[str]:
    """The names of all files in the library's cache but its bookkeeping."""
    found = [path for path in (tmp_path / "hf").rglob("*") if path.is_file() and path.parent.name not in ("refs", "hf", "hub")]
    return sorted(path.name for path in found if not path.name.endswith((".lock", ".json")))


# References


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://me/tiny", ("me/tiny", None, None)),
        ("hf://me/tiny@v1.0", ("me/tiny", "v1.0", None)),
        ("hf://me/tiny/a/b.safetensors", ("me/tiny", None, "a/b.safetensors")),
        ("hf://me/t.i_n-y@refs/pr/1/b@2.safetensors", ("me/t.i_n-y", "refs/pr/1", "b@2.safetensors")),
        ("hf://me/tiny@feature%2Fx", ("me/tiny", "feature/x", None)),
    ],
)
def test_references(text: str, parts: tuple[str, ...]) -> None:
    found = hub.parse(text)
    assert (found.repository, found.revision, found.file) == parts


@pytest.mark.parametrize(
    ("address", "reference"),
    [
        *(
            (f"{scheme}{host}/me/tiny", "hf://me/tiny")
            for scheme in ("https://", "http://", "HTTPS://", "")
            for host in ("huggingface.co", "hf.co")
        ),
        *(
            (f"{start}/me/tiny/", "hf://me/tiny")
            for start in ("https://www.huggingface.co", "www.hf.co", "https:/huggingface.co", "Hf.Co")
        ),
        *(
            (f"hf.co{rest}", "hf://me/tiny")
            for rest in (":me/tiny", ":443/me/tiny", "/me/tiny?x=1#files", "/me/tiny/tree/main/", "//me/tiny")
        ),
        ("https://huggingface.co/me/tiny.git", "hf://me/tiny"),
        ("https://huggingface.co/me/tiny/tree/v1.0", "hf://me/tiny@v1.0"),
        ("https://huggingface.co/me/tiny/tree/feature%2Fx", "hf://me/tiny@feature%2Fx"),
        ("https://huggingface.co/me/tiny/tree/refs%2Fpr%2F1", "hf://me/tiny@refs%2Fpr%2F1"),
        ("https://huggingface.co/me/tiny/commit/0123abc", "hf://me/tiny@0123abc"),
        ("https://huggingface.co/me/tiny/blob/main/a/b.safetensors", "hf://me/tiny/a/b.safetensors"),
        ("https://huggingface.co/me/tiny/resolve/main/b.safetensors?download=true", "hf://me/tiny/b.safetensors"),
        ("https://huggingface.co/me/tiny/raw/refs/pr/1/b.safetensors", "hf://me/tiny@refs%2Fpr%2F1/b.safetensors"),
        ("http://127.0.0.1:8000/me/tiny/resolve/v1/b.safetensors", "hf://me/tiny@v1/b.safetensors"),
    ],
)
def test_addresses_are_references(address: str, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:8000")
    assert hub.is_reference(address)
    assert hub.parse(address) == hub.parse(reference)
    assert hub.parse(hub.parse(address).text) == hub.parse(reference)


MALFORMED = (
    *(
        "https://huggingface.co",
        "https://huggingface.co/",
        "https://huggingface.co/me",
        "https://hf.co/datasets/me/tiny",
        "https://[x",
    ),
    *(
        f"https://huggingface.co/me/tiny/{page}"
        for page in ("discussions/1", "settings", "tree", "tree/main/folder", "blob/main/x.bin")
    ),
    *(
        "https://github.com/me/tiny",
        "https://huggingface.com.evil.org/me/tiny",
        "http://",
        "hf.co/me/tiny/resolve/main/../../x.safetensors",
    ),
    *(
        "hf://",
        "hf:/me/tiny",
        "hf:me/tiny",
        "HF://me/tiny",
        "hf://me",
        "hf:///tiny",
        "hf://me/",
        "hf://me/tiny@",
        "hf://me/tiny/",
    ),
    *("hf://me/tiny/../x.safetensors", "hf://me/tiny//x.safetensors", "hf://me/ti ny", "hf://me/tiny/a b.safetensors"),
    *("hf://me/tiny@a b", "hf://me/tiny@..", "hf://me/tiny@%2e%2e%2fx", "hf://me/ti..ny", "hf://me/ti--ny", "hf://-me/tiny"),
    *("hf://me/tiny/pickled.bin", "hf://me/tiny/README.md", "hf://me/tiny/x.safetensors\n", "hf://me/tiny.git", "hf://me/tïny"),
    f"hf://me/{'x' * 94}",
)


def test_a_repository_alone_is_a_path(cli: Cli, tmp_path: Path) -> None:
    refused = cli("sample", "--weights", "me/tiny")
    assert refused.err == "error: me/tiny: no such file; a repository of the hub is written as hf://me/tiny\n"
    (tmp_path / "me").mkdir()
    for path in ("me/tiny", "runs/tiny", "me/x/tiny"):
        assert "hub" not in cli("sample", "--weights", path).err


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_references(text: str, cli: Cli) -> None:
    assert hub.is_reference(text)
    with pytest.raises(UsageError):
        hub.parse(text)
    refused = cli("sample", "--weights", text)
    assert refused.code == 2
    assert len(refused.err.strip().splitlines()) == 1
    assert refused.err.startswith(("error: hf", "error: https:", "error: http:", f"error: {text.strip()}"))


def test_paths_are_no_references() -> None:
    paths = ("hf", "./hf:x", "runs/hf://me/tiny", "shapes-blur", "hf.co", "hf.common/x", "huggingface.co.safetensors", "https")
    assert not any(map(hub.is_reference, paths))


TOKENS = {
    "hf_ab cd": "white space at position 6",
    "hf_ab\ncd": "a line end at position 6",
    '"hf_abcd"': "the character '\"' at position 1",
    "hf_ab\u00e9": "the character '\\xe9' at position 6",
    "hf_\u201cx": "the character '\\u201c' at position 4",
    "HF_TOKEN=hf_abcd": "the character '=' at position 9",
    "Bearer hf_abcd": "white space at position 7",
    "<token>": "the character '<' at position 1",
}


@pytest.mark.parametrize("token", TOKENS)
def test_what_cannot_be_a_token_is_refused_before_any_request(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    file = tmp_path / "token"
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(file))
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", None)
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", None)
    for call in (lambda: hub.fetch("hf://me/tiny"), lambda: hub.find_destination("me/tiny", None, False)):
        with pytest.raises(UserError) as error:
            call()
        assert str(error.value).startswith(f"$HF_TOKEN: cannot be a token of the hub: it has {TOKENS[token]}; set it again")
        assert token not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", " ")
    file.write_text(f"{token}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"token: cannot be a token of the hub: .*; log in again with: hf auth login"):
        hub.fetch("hf://me/tiny")
    file.write_bytes(b"hf_\xff")
    with pytest.raises(UserError, match=r"token: cannot be a token of the hub: it has the character '\\ufffd' at position 4"):
        hub.fetch("hf://me/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # no request needs it
    with pytest.raises(UserError, match=r"hf://me/tiny: "):
        hub.fetch("hf://me/tiny")


def test_what_can_be_a_token_is_left_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "absent"))
    for token in ("", "hf_abcDEF123", " hf_a\n", "hf_oauth_eyJh.bGc-i_O", "YWJj+/=="):
        monkeypatch.setenv("HF_TOKEN", token)
        client.api("hf://me/tiny")


# Downloads


def test_two_references_to_one_file_are_one_download(command: Command, server: Hub, exported: Path) -> None:
    server.add("me/tiny", {"model.safetensors": exported.read_bytes(), "README.md": b"", "pytorch_model.bin": b"pickle"})
    text = "hf://me/tiny"
    sampled = command("sample", "--weights", text, "--guide", text, "--n", 2, "--out", "x.npz", "--json")
    assert sampled.code == 0, sampled.err
    assert json.loads(sampled.out)["weights"] == text
    assert "using model.safetensors of me/tiny, commit" in sampled.err
    assert len(server.downloads()) == 1
    assert not [path for _, path in server.asked if path.endswith((".bin", ".md"))]


def test_every_command_reads_weights_from_the_hub(
    cli: Cli, exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = "hf://me/tiny@v1"
    fetched: list[str] = []
    monkeypatch.setattr(hub, "fetch", lambda text, notify: fetched.append(text) or exported)
    commands = (
        ("sample", "--weights", text, "--guide", text, "--n", 1),
        ("animate", "x.gif", "--weights", text, "--guide", text, "--n", 1, "--frames", 2),
        ("animate", "y.gif", "--weights", exported, "--compare", text, "--n", 1, "--frames", 2),
        ("fid", "--weights", text, "--guide", text, "--n", 8, "--force"),
        ("likelihood", "--weights", text, "--n", 2, "--calls", 2),
        ("diagnose", "--weights", text, "--n", 2),
        ("sweep", "--weights", text, "--steps", "1,2", "--n", 8, "--force"),
        ("export", "y.safetensors", "--weights", text),
    )
    for arguments in commands:
        fetched.clear()
        done = cli(*arguments)
        assert done.code == 0, (arguments, done.err)
        assert fetched == [text] * arguments.count(text)
    scores = [json.loads(line) for line in (tmp_path / "runs" / "evaluations.jsonl").read_text().splitlines()]
    assert {score["weights"] for score in scores} == {text}
    suggested = cli("sample", text).err
    assert f"Did you mean: blurdiff sample --weights {text}" in suggested


def test_a_revision_a_file_and_the_cache(command: Command, server: Hub, exported: Path, tmp_path: Path) -> None:
    good = exported.read_bytes()
    repository = server.add("me/tiny", {"one.safetensors": good})
    repository.commit({"one.safetensors": b"not safetensors"})
    repository.commit({"two.safetensors": b"not safetensors either"}, branch="feature/x")
    first = repository.branches["main"][0]

    sample = ("sample", "--n", 1, "--out", "x.npz", "--weights")
    assert command(*sample, f"hf://me/tiny@{first}").code == 0
    newest = command(*sample, "hf://me/tiny")
    assert (newest.code, "hf://me/tiny: not a readable safetensors file" in newest.err) == (1, True)
    assert str(tmp_path) not in newest.err
    branch = command(*sample, "hf://me/tiny@feature%2Fx/two.safetensors")
    assert "hf://me/tiny@feature%2Fx/two.safetensors: not a readable safetensors file" in branch.err

    offline = {"HF_HUB_OFFLINE": "1"}
    again = command(*sample, f"hf://me/tiny@{first}/one.safetensors", **offline)
    assert again.code == 0, again.err
    assert "offline ($HF_HUB_OFFLINE); using the copy in the cache" in again.err
    # Whether one.safetensors is the only file is not known offline.
    for text, hint in ((f"hf://me/tiny@{first}", "name the file"), ("hf://me/other", "it is not in the cache")):
        missing = command(*sample, text, **offline)
        assert (missing.code, hint in missing.err) == (1, True), missing.err


def test_weights_that_are_not_ours(command: Command, server: Hub, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save

    server.add("me/other", {"model.safetensors": save({"x": torch.zeros(2)})})
    refused = command("sample", "--weights", "hf://me/other")
    assert refused.code == 2
    assert "error: hf://me/other: a safetensors file, but not a weights file of blurdiff" in refused.err


def test_repositories_that_do_not_say_which_file(command: Command, server: Hub, exported: Path) -> None:
    content = exported.read_bytes()
    server.add("me/none", {"pytorch_model.bin": b"pickle"})
    server.add("me/several", {"b.safetensors": content, "a/c.safetensors": content})
    server.add("me/usual", {"b.safetensors": b"other", "model.safetensors": content})
    none, several = (command("sample", "--weights", f"hf://me/{name}") for name in ("none", "several"))
    assert (none.code, "hf://me/none: the repository has no .safetensors file" in none.err) == (2, True)
    assert (several.code, "several weights files (a/c.safetensors, b.safetensors)" in several.err) == (2, True)
    absent = command("sample", "--weights", "hf://me/several/x.safetensors")
    assert "no such file; it has a/c.safetensors, b.safetensors" in absent.err
    assert server.downloads() == []
    assert command("sample", "--weights", "hf://me/usual", "--n", 1, "--out", "x.npz").code == 0


REFUSED = {
    "hf://me/absent": "no such repository, or a private one",
    "hf://me/hidden": "no such repository, or a private one",
    "hf://me/gated": "access must be granted by its owner",
    "hf://me/tiny@absent": "the repository has no such revision",
}


def test_refusals(command: Command, server: Hub, exported: Path, tmp_path: Path) -> None:
    files = {"model.safetensors": exported.read_bytes()}
    server.add("me/tiny", files)
    server.add("me/hidden", files, private=True)
    server.add("me/gated", files, gated=True)
    for text, reason in REFUSED.items():
        refused = command("sample", "--weights", text)
        assert (refused.code, refused.err.count("\n")) == (1, 1), refused.err
        assert f"error: {text}: {reason}" in refused.err
    wrong = command("sample", "--weights", "hf://me/tiny", HF_TOKEN="nonsense")
    assert "hf://me/tiny: the hub does not accept the token; log in with: hf auth login, or set $HF_TOKEN" in wrong.err
    assert cached(tmp_path) == []
    allowed = command("sample", "--weights", "hf://me/hidden", "--n", 1, "--out", "x.npz", HF_TOKEN="reader")
    assert allowed.code == 0, allowed.err
    # What is cached does not cover up that it is gone.
    del server.repositories["me/hidden"]
    assert command("sample", "--weights", "hf://me/hidden", HF_TOKEN="reader").code == 1


def test_no_network(command: Command, server: Hub, exported: Path) -> None:
    server.add("me/tiny", {"model.safetensors": exported.read_bytes()})
    sample = ("sample", "--weights", "hf://me/tiny", "--n", 1, "--out", "x.npz")
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    failed = command(*sample, **away)
    assert (failed.code, failed.err.count("\n")) == (1, 1), failed.err
    assert "hf://me/tiny: http://127.0.0.1:9 cannot be reached (connection refused); check the network" in failed.err
    assert "it is not in the cache" in failed.err
    server.trouble = "busy"
    assert "the hub answered 503 (busy); try again later" in command(*sample).err
    server.trouble = ""
    assert command(*sample).code == 0
    for trouble, variables in (("", away), ("busy", {})):
        server.trouble = trouble
        done = command(*sample, **variables)
        assert (done.code, "using the copy in the cache" in done.err) == (0, True), done.err


@pytest.mark.parametrize(
    ("trouble", "reason"), [("cut", "the connection broke off"), ("wrong bytes", "has other bytes than were published")]
)
def test_a_broken_download_leaves_nothing_behind(
    command: Command, server: Hub, exported: Path, tmp_path: Path, trouble: str, reason: str
) -> None:
    server.add("me/tiny", {"model.safetensors": exported.read_bytes()})
    server.trouble = trouble
    sample = ("sample", "--weights", "hf://me/tiny", "--n", 1, "--out", "x.npz")
    failed = command(*sample)
    assert failed.code == 1
    used, error = failed.err.splitlines()  # without the library's own messages
    assert used.startswith("using model.safetensors")
    assert re.search(f"^error: hf://me/tiny: .*{reason}", error), error
    assert not [name for name in cached(tmp_path) if not name.endswith(".incomplete")]
    assert not (tmp_path / "x.npz").exists()
    server.trouble = ""
    assert command(*sample).code == 0


def test_a_damaged_copy_in_the_cache_is_named(command: Command, server: Hub, exported: Path, tmp_path: Path) -> None:
    server.add("me/tiny", {"model.safetensors": exported.read_bytes()})
    sample = ("sample", "--weights", f"{server.address}/me/tiny/blob/main/model.safetensors", "--n", 1, "--out", "x.npz")
    assert command(*sample).code == 0
    (copy,) = {path.resolve() for path in (tmp_path / "hf").rglob("model.safetensors")}
    copy.write_bytes(exported.read_bytes()[:-9])
    failed = command(*sample, HF_HUB_OFFLINE="1")
    assert failed.code == 1
    assert failed.err.endswith(f"; to fetch it again, delete {copy} and repeat the command\n"), failed.err
    copy.unlink()
    assert command(*sample).code == 0
    copy.write_bytes(exported.read_bytes()[:-9])
    failed = command(*sample)
    assert re.search(r"has other bytes than were published \(SHA-256\); .*model.safetensors is deleted: try again", failed.err)
    assert command(*sample).code == 0


def little_space() -> None:
    """Files of this process may have 20 kB."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def full_disk() -> None:
    import shutil

    shutil.disk_usage = lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1000)  # type: ignore[attr-defined, assignment]


@pytest.mark.parametrize(
    ("before", "reason"), [(full_disk, "needs about 1 MiB, and 0 MiB are free"), (little_space, os.strerror(errno.EFBIG))]
)
def test_a_full_disk(
    command: Command, server: Hub, exported: Path, tmp_path: Path, before: Callable[[], None], reason: str
) -> None:
    server.add("me/tiny", {"model.safetensors": exported.read_bytes()})
    failed = command("sample", "--weights", "hf://me/tiny", before=before)
    assert failed.code == 1
    assert reason in failed.err
    assert not [name for name in cached(tmp_path) if not name.endswith(".incomplete")]


def without_package() -> None:
    sys.modules["huggingface_hub"] = None  # type: ignore[assignment]


def broken_package() -> None:
    class Broken:
        def find_spec(self, name: str, *arguments: object) -> None:
            if name == "huggingface_hub.utils":
                raise ImportError("cannot import name 'x' from 'typing_extensions'")

    sys.meta_path.insert(0, Broken())  # type: ignore[arg-type]


def without_requirement() -> None:
    class Broken:
        def find_spec(self, name: str, *arguments: object) -> None:
            if name in ("httpx", "httpx2"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Broken())  # type: ignore[arg-type]


def test_the_package_is_optional(command: Command, tiny_run: Path) -> None:
    """Without it, references are explained, and all else works."""
    push = ("push", tiny_run, "me/tiny", "--license", "mit", "--n", 1, "--no-animation")
    for arguments in (("sample", "--weights", "hf://me/tiny"), push):
        done = command(*arguments, before=without_package)
        assert done.code == 1
        assert "needs the package huggingface_hub: pip install huggingface_hub" in done.err
    for before, reason in (
        (broken_package, "ImportError: cannot import name 'x'"),
        (without_requirement, "ModuleNotFoundError: No module"),
    ):
        done = command("sample", "--weights", "hf://me/tiny", before=before)
        assert f"hf://me/tiny: the package huggingface_hub is installed but cannot be imported ({reason}" in done.err
        assert "pip install" not in done.err
    done = command(*push, "--dry-run", "dry", before=without_package)
    assert done.code == 0, done.err


# Uploads


def front_matter(card: str) -> dict:
    _, header, _ = card.split("---\n", 2)
    return dict(yaml.safe_load(header))


PUSH = ("me/tiny", "--license", "MIT", "--n", 4)


def test_a_round_trip(command: Command, server: Hub, tiny_run: Path, exported: Path, tmp_path: Path) -> None:
    assert command("fid", "--run", tiny_run, "--n", 8, "--force").code == 0
    pushed = command("push", tiny_run, *PUSH, "--json", HF_TOKEN="secret")
    assert pushed.code == 0, pushed.err
    repository = server.repositories["me/tiny"]
    assert not repository.private
    assert repository.messages[1:] == ["blurdiff weights after 3 steps"]  # one commit
    files = repository.files()
    assert sorted(files.keys() - {".gitattributes"}) == json.loads(pushed.out)["files"]
    (tmp_path / "pushed.safetensors").write_bytes(files["model.safetensors"])
    pushed_as, exported_as = load_weights(tmp_path / "pushed.safetensors"), load_weights(exported)
    assert content_hash(pushed_as.network) == content_hash(exported_as.network)
    assert pushed_as.config == exported_as.config
    assert len(files["model.safetensors"]) == exported.stat().st_size
    (tmp_path / "config.yaml").write_bytes(files["config.yaml"])
    assert load_run_config(tmp_path / "config.yaml") == exported_as.config
    assert files["reverse.gif"].startswith(b"GIF")
    card = files["README.md"].decode()
    assert front_matter(card) == {
        "library_name": "blurdiff",
        "license": "mit",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["blurdiff", "diffusion", "image-generation"],
    }
    assert "3 steps of 4 images: 12 images seen" in card
    score = json.loads((tiny_run / "evaluations.jsonl").read_text().splitlines()[-1])
    assert f"| {score['fd']:.4g} |" in card
    assert "FD in pixels-8x8: 8 images, reference shapes train" in card

    sample = ("sample", "--n", 4, "--out")
    assert command(*sample, "local.npz", "--weights", exported).code == 0
    assert command(*sample, "hub.npz", "--weights", "hf://me/tiny").code == 0
    server.repositories.clear()
    offline = command(*sample, "offline.npz", "--weights", "hf://me/tiny", HF_HUB_OFFLINE="1")
    assert offline.code == 0, offline.err
    assert {(tmp_path / f"{name}.npz").read_bytes() for name in ("hub", "offline")} == {(tmp_path / "local.npz").read_bytes()}
    assert (images(tmp_path / "local.npz") == images(tmp_path / "hub.npz")).all()


def test_a_dry_run_writes_what_would_be_uploaded(command: Command, server: Hub, tiny_run: Path, tmp_path: Path) -> None:
    assert command("push", tiny_run, *PUSH, "--revision", "v2", HF_TOKEN="secret").code == 0
    asked = len(server.asked)
    dry = command("push", tiny_run, *PUSH, "--revision", "v2", "--dry-run", "dry")
    assert dry.code == 0, dry.err
    assert len(server.asked) == asked
    written = {path.name: path.read_bytes() for path in (tmp_path / "dry").iterdir()}
    repository = server.repositories["me/tiny"]
    assert {".gitattributes", *written} == set(repository.files("v2"))
    assert written.items() <= repository.files("v2").items()
    assert "model.safetensors" not in repository.files("main")
    assert "hf://me/tiny@v2" in written["README.md"].decode()
    assert command("push", tiny_run, *PUSH, "--dry-run", "dry").code == 2  # not empty
    assert not list(tmp_path.glob(".partial-*"))


def test_weights_alone_in_a_private_repository(command: Command, server: Hub, tiny_run: Path) -> None:
    weights = next((tiny_run / "weights").iterdir())
    options = ("--license", "cc-by-nc-4.0", "--private", "--message", "hello", "--no-animation", "--n", 1)
    done = command("push", weights, "lab/tiny", *options, HF_TOKEN="secret")
    assert done.code == 0, done.err
    repository = server.repositories["lab/tiny"]
    assert (repository.private, repository.messages[-1]) == (True, "hello")
    assert "reverse.gif" not in repository.files()
    card = repository.files()["README.md"].decode()
    assert front_matter(card)["license"] == "cc-by-nc-4.0"
    assert "reverse.gif" not in card


def test_nothing_about_the_authors_machine_is_shared(cli: Cli, photos: Path, tmp_path: Path) -> None:
    train = ("train", "--preset", "folder-blur", "--data", photos, "--run", "r", *settings("train.steps=1"))
    assert cli(*train).code == 0
    assert cli("fid", "--run", "r", "--n", 8, "--force", "--features", "pixels", "--name", "secret name").code == 0
    assert str(photos) in (tmp_path / "r" / "evaluations.jsonl").read_text()
    dry = cli("push", "r", "me/tiny", "--license", "mit", "--n", 1, "--no-animation", "--dry-run", "dry")
    assert dry.code == 0, dry.err
    assert "reference images (" in (tmp_path / "dry" / "README.md").read_text()
    for path in (tmp_path / "dry").iterdir():
        for private in (str(tmp_path), photos.name, "secret name"):
            assert private.encode() not in path.read_bytes(), (path, private)


def test_scores_of_other_weights_are_left_out(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    assert cli("fid", "--run", tiny_run, "--n", 8, "--force").code == 0
    path = tiny_run / "evaluations.jsonl"
    score = json.loads(path.read_text())
    path.write_text(json.dumps({**score, "fd": 1234.0, "weights_sha256": "0" * 16}) + "\n" + path.read_text() + '{"torn')
    assert cli("push", tiny_run, *PUSH, "--no-animation", "--dry-run", "dry").code == 0
    card = (tmp_path / "dry" / "README.md").read_text()
    assert f"{score['fd']:.4g}" in card
    assert "1234" not in card


def test_an_edited_card_is_kept(command: Command, server: Hub, tiny_run: Path) -> None:
    push = ("push", tiny_run, *PUSH, "--no-animation")
    assert command(*push, HF_TOKEN="secret").code == 0
    repository = server.repositories["me/tiny"]
    first = repository.files()["README.md"]
    assert model_card.is_unedited(first.decode())
    # As it was written: replaced, here by one with another license.
    again = command(*push, "--license", "cc-by-4.0", HF_TOKEN="secret")
    assert again.code == 0, again.err
    assert front_matter(repository.files()["README.md"].decode())["license"] == "cc-by-4.0"

    for edited in (first.replace(b"## Use", b"## My words"), b"a card of somebody else"):
        repository.commit({"README.md": edited})
        kept = command(*push, "--n", 1, "--json", HF_TOKEN="secret")
        assert kept.code == 0, kept.err
        assert json.loads(kept.out)["card_kept"]
        assert "README.md was not written by blurdiff push, or has been edited: it is kept" in kept.err
        assert repository.files()["README.md"] == edited
    assert command(*push, "--replace-card", HF_TOKEN="secret").code == 0
    assert repository.files()["README.md"] == first


REFUSED_UPLOADS = {
    "no token": ((), {}, 1, "needs a token: log in with: hf auth login, or set $HF_TOKEN"),
    "a wrong token": ((), {"HF_TOKEN": "nonsense"}, 1, "the hub does not accept the token"),
    "a token for reading": ((), {"HF_TOKEN": "reader"}, 1, "the token may only read; create one that may write"),
    "somebody else": (("you/tiny",), {"HF_TOKEN": "secret"}, 2, "the token belongs to me, who may write to: me, lab"),
    "a public one": (("me/public", "--private"), {"HF_TOKEN": "secret"}, 2, "me/public exists and is public"),
    "offline": ((), {"HF_TOKEN": "secret", "HF_HUB_OFFLINE": "1"}, 1, "the hub's library is offline ($HF_HUB_OFFLINE)"),
    "no network": ((), {"HF_TOKEN": "secret", "HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "cannot be reached"),
}


@pytest.mark.parametrize("case", REFUSED_UPLOADS)
def test_refused_before_the_upload(command: Command, server: Hub, tiny_run: Path, case: str) -> None:
    server.add("me/public", {})
    (name, *options), variables, code, reason = ((REFUSED_UPLOADS[case][0] or ("me/tiny",)), *REFUSED_UPLOADS[case][1:])
    refused = command("push", tiny_run, name, *options, "--license", "mit", **variables)
    assert (refused.code, refused.err.count("\n")) == (code, 1), refused.err
    assert reason in refused.err
    assert list(server.repositories) == ["me/public"]
    assert {method for method, _ in server.asked} <= {"GET"}


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("full", "forbidden (storage quota exceeded)"), ("moved", "the repository has changed in the meantime")],
)
def test_a_failed_upload_leaves_the_branch_as_it_was(
    command: Command, server: Hub, tiny_run: Path, trouble: str, reason: str
) -> None:
    repository = server.add("me/tiny", {"README.md": model_card.marked("old").encode()})
    before = list(repository.commits)
    server.trouble = trouble
    failed = command("push", tiny_run, *PUSH, "--no-animation", HF_TOKEN="secret")
    assert failed.code == 1
    assert f"error: me/tiny: nothing is uploaded: {reason}" in failed.err
    assert failed.err.count("error") == 1
    assert "model.safetensors" not in repository.files()
    assert len(repository.commits) == len(before) + (trouble == "moved")
    server.trouble = ""
    again = command("push", tiny_run, *PUSH, "--no-animation", "--replace-card", HF_TOKEN="secret")
    assert again.code == 0, again.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("me/tiny",), "--license: name the terms under which others may use the weights, such as mit"),
        (("me/tiny", "--license", "mitt"), "--license mitt: not an identifier of the hub; did you mean 'mit'?"),
        (("tiny", "--license", "mit"), "tiny: 'tiny' is not a repository of the hub: write user/repo"),
        (("https://github.com/me/tiny", "--license", "mit"), "not an address of the Hugging Face hub"),
        (("me/tiny", "--license", "mit", "--revision", "a b"), "--revision a b: 'a b' is not a branch"),
        (("me/tiny", "--license", "mit", "--message", " "), "--message: is empty"),
    ],
)
def test_wrong_usage(cli: Cli, tiny_run: Path, arguments: tuple[str, ...], reason: str) -> None:
    refused = cli("push", tiny_run, *arguments)
    assert (refused.code, reason in refused.err) == (2, True), refused.err


def test_a_repository_by_its_address(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    push = ("--license", "mit", "--n", 1, "--no-animation", "--json", "--dry-run")
    for i, (address, revision) in enumerate(
        {"https://huggingface.co/me/tiny": None, "hf.co/me/tiny/tree/dev": "dev", "hf://me/tiny@dev": "dev"}.items()
    ):
        done = cli("push", tiny_run, address, *push, tmp_path / str(i))
        result = json.loads(done.out)
        assert (result["repository"], result["revision"]) == ("me/tiny", revision)
    for address in ("https://huggingface.co/me/tiny/tree/dev", "hf://me/tiny/x.safetensors"):
        refused = cli("push", tiny_run, address, "--revision", "other", *push, tmp_path / "new")
        assert (refused.code, "names a file, or another revision" in refused.err) == (2, True), refused.err


def test_runs_that_cannot_be_shared(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    push = ("me/tiny", "--license", "mit", "--dry-run", "dry", "--n", 1, "--no-animation")
    for source, reason in (("absent", "no such run folder"), ("empty", "has no weights yet")):
        assert reason in cli("push", source, *push).err
    weights = next((tiny_run / "weights").iterdir())
    weights.write_bytes(weights.read_bytes()[:-100])
    damaged = cli("push", tiny_run, *push)
    assert (damaged.code, "not a readable safetensors file" in damaged.err) == (1, True)
    assert not (tmp_path / "dry").exists()
    assert not list(tmp_path.glob(".partial-*"))


def test_a_dry_run_is_whole_or_not_there(cli: Cli, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(model_card, "save_grid", full)
    assert cli("push", tiny_run, *PUSH, "--no-animation", "--dry-run", "dry").code == 1
    assert not (tmp_path / "dry").exists()
    assert not list(tmp_path.glob(".partial-*"))


def test_an_unfinished_training_is_reported(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    weights = load_weights(next((tiny_run / "weights").iterdir()))
    config = weights.config.model_copy(update={"train": weights.config.train.model_copy(update={"steps": 5000})})
    save_weights(replace(weights, config=config, path=tmp_path / "w.safetensors"))
    done = cli("push", "w.safetensors", *PUSH, "--no-animation", "--dry-run", "dry")
    assert "step 3 of 5,000; the training is not finished" in done.err
    assert "3 of 5,000 steps of 4 images" in (tmp_path / "dry" / "README.md").read_text()


def test_a_card_is_known_by_its_own_hash() -> None:
    card = model_card.marked("words\n")
    assert model_card.is_unedited(card)
    assert model_card.is_unedited(card.replace("\n", "\r\n"))
    for other in ("", "words", card + "more", "more" + card, card.replace("words", "other"), card.rstrip() + " -->"):
        assert not model_card.is_unedited(other)
