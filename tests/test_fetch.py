"""Downloads, from a host on this machine that misbehaves in every way that hosts do."""

import errno
import http.client
import http.server
import itertools
import json
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

import httpx
import numpy as np
import pytest
import requests
import urllib3
from conftest import Cli, settings

from blurcli.base import downloads
from blurcli.base.cache import cache_folder
from blurcli.base.errors import UserError
from blurcli.config import load_config
from blurcli.evaluate import distances, inception, load_features


@dataclass
class Host:
    """A web server that sends `content`, however `manner` says."""

    address: str = ""
    content: bytes = b""
    manner: str = "well"
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def host() -> Iterator[Host]:
    state = Host()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            if state.manner == "404":
                self.send_error(404)
                return
            self.send_response(200)
            if state.manner != "no length":
                self.send_header("Content-Length", str(len(state.content)))
            self.end_headers()
            if state.manner == "cut":
                self.wfile.write(state.content[: len(state.content) // 2])
            elif state.manner == "wrong bytes":
                self.wfile.write(bytes(len(state.content)))
            elif state.manner == "stalls":
                self.wfile.write(state.content[:10])
                self.wfile.flush()
                time.sleep(2)
            elif state.manner == "drips":
                for i in range(40):
                    self.wfile.write(state.content[i : i + 1])
                    self.wfile.flush()
                    time.sleep(0.05)
            else:
                self.wfile.write(state.content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}/file"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own, nothing where clean-fid looks, less patience than with a real host, and no roots of large matrices."""
    monkeypatch.setenv("BLURDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(inception, "_clean_fid_path", lambda mode: tmp_path / "elsewhere" / "network.pt")
    monkeypatch.setattr(downloads, "_STALL_SEC", 0.5)
    monkeypatch.setattr(distances, "frechet_distance", lambda *moments: 1.0)


TROUBLE = {
    "404": r"HTTP 404 \(Not Found\)",
    "cut": r"the connection broke off after \d+ of \d+ bytes",
    "wrong bytes": "sent something other than inception-2015-12-05.pt",
    "stalls": r"no answer for 0.5 s",
    "drips": r"too slow \(\d+ bytes/s\)",
}


@pytest.mark.parametrize("manner", TROUBLE)
def test_trouble_leaves_nothing_behind_and_a_retry_succeeds(
    host: Host, manner: str, inception_file: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, tiny_run: Path
) -> None:
    monkeypatch.setenv("BLURDIFF_INCEPTION", host.address)
    host.content, host.manner = inception_file.read_bytes(), manner
    command = ["fid", "--run", tiny_run, "--features", "inception", "--n", 8, "--force", "--json"]
    failed = cli(*command)
    assert failed.code == 1
    message = " ".join(failed.err.split())
    assert "the Inception network is not here and cannot be downloaded" in message

    assert re.search(TROUBLE[manner], message), message
    place = cache_folder() / "inception" / "inception-2015-12-05.pt"
    assert f"put it at {place}" in message
    assert "--features pixels or --features FILE" in message
    assert not list(cache_folder().rglob("*incept*.*"))
    assert not (tiny_run / "evaluations.jsonl").exists()

    host.manner = "well"
    done = cli(*command)
    assert done.code == 0, done.err
    assert json.loads(done.out)["fid"] > 0
    assert place.read_bytes() == host.content
    if manner == "404":
        asked = len(host.asked)
        assert cli(*command).code == 0
        assert len(host.asked) == asked  # fetched once


def test_a_host_that_is_not_there(cli: Cli, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLURDIFF_INCEPTION", "http://127.0.0.1:9/file")
    failed = cli("fid", "--run", tiny_run, "--features", "inception", "--n", 8, "--force")
    assert failed.code == 1
    assert failed.err.splitlines()[-1].startswith(
        "error: the Inception network is not here and cannot be downloaded: connection refused. Without it, score with --features"
    )
    assert "or fetch it with a network: blurdiff prefetch --preset cifar10-blur (from http://127.0.0.1:9/file)" in failed.err
    assert load_config("cifar10-blur").score.features == "inception"


def raised(error: BaseException, *outer: BaseException) -> BaseException:
    """The last of these errors, each raised because of the one before."""
    for cause, one in itertools.pairwise((error, *outer)):
        one.__cause__ = cause
    return (error, *outer)[-1]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(-2, "Name or service not known"), "no network connection"),
        (raised(socket.gaierror(11001, "getaddrinfo failed"), urllib.error.URLError("x")), "no network connection"),
        (
            RuntimeError("Tried http://x, got:\n<urlopen error [Errno -3] Temporary failure in name resolution>"),
            "no network connection",
        ),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no network connection"),
        (ConnectionRefusedError(111, "Verbindungsaufbau abgelehnt"), "connection refused"),
        (
            raised(ConnectionRefusedError(), urllib3.exceptions.ProxyError("x", OSError())),
            "the proxy cannot be reached; see $HTTPS_PROXY",
        ),
        (
            OSError("Tunnel connection failed: 407 Proxy Authentication Required"),
            "the proxy refuses (407 Proxy Authentication Required); see $HTTPS_PROXY",
        ),
        (httpx.ProxyError("407 Proxy Authentication Required"), "the proxy refuses; see $HTTPS_PROXY"),
        (
            raised(
                ssl.SSLCertVerificationError(1, "[SSL: X] certificate verify failed: self-signed certificate (_ssl.c:1)"),
                requests.exceptions.SSLError(),
            ),
            "the TLS certificate is not accepted (self-signed certificate); where a proxy opens TLS, name its certificates with "
            "$SSL_CERT_FILE and $REQUESTS_CA_BUNDLE",
        ),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1)"), "TLS failed (WRONG_VERSION_NUMBER)"),
        (urllib.error.HTTPError("http://x", 403, "Forbidden", Message(), None), "HTTP 403"),
        (raised(TimeoutError("The read operation timed out"), httpx.ReadTimeout("")), "timed out"),
        (http.client.RemoteDisconnected("Remote end closed connection without response"), "the connection broke off"),
        (httpx.RemoteProtocolError("peer closed connection"), "the connection broke off"),
        (ValueError("something else"), None),
    ],
    ids=repr,
)
def test_reasons_are_short_and_the_same_for_every_library(error: Exception, reason: str | None) -> None:
    assert downloads.network_reason(error) == reason


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://{host}", "TLS failed"),
        ("http://absent.invalid/x", "no network connection"),
        ("http://[bad/x", "not a valid host|Failed to parse"),
    ],
)
def test_reasons_are_no_objects_of_a_library(
    host: Host, tmp_path: Path, url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(name: str, *arguments: object, **options: object) -> object:
        if name == "absent.invalid":
            raise socket.gaierror(-2, "Name or service not known")
        return original(name, *arguments, **options)

    original = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(downloads.DownloadError) as error:
        downloads.fetch(
            url.format(host=host.address.partition("//")[2]), tmp_path / "x", lambda path: None, lambda *progress: None
        )
    assert re.search(reason, error.value.reason)
    assert not re.search(r"Pool\(|object at|urllib3|Errno|Connection\(", error.value.text)


def test_a_missing_file_of_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "absent"))
    with pytest.raises(downloads.DownloadError, match=r"TLS CA certificate bundle, invalid path: .*absent"):
        downloads.fetch("https://127.0.0.1:9/x", tmp_path / "x", lambda path: None, lambda *progress: None)


def test_content_without_a_length(host: Host, tmp_path: Path) -> None:
    host.content, host.manner = b"all of it", "no length"
    seen: list[tuple[int, int]] = []
    downloads.fetch(host.address, tmp_path / "x", lambda path: None, lambda *progress: seen.append(progress))
    assert (tmp_path / "x").read_bytes() == b"all of it"
    assert seen[-1] == (9, 0)


def test_a_known_hash_is_insisted_on(host: Host, tmp_path: Path) -> None:
    host.content = b"something else"
    with pytest.raises(UserError, match="sent other bytes than were published"):
        downloads.fetch(host.address, tmp_path / "x", lambda path: None, lambda *progress: None, "00" * 32)
    assert list(tmp_path.iterdir()) == []


def test_only_web_addresses_are_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("content")
    with pytest.raises(UserError, match="not an http or https address"):
        downloads.fetch(f"file://{tmp_path}/secret", tmp_path / "x", lambda path: None, lambda *progress: None)


def test_a_fetched_file_is_verified_ever_after(host: Host, inception_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("BLURDIFF_INCEPTION", host.address)
    host.content = inception_file.read_bytes()
    load_features("inception", "clean", torch.device("cpu"))
    path = cache_folder() / "inception" / "inception-2015-12-05.pt"
    record = json.loads(path.with_name(path.name + ".json").read_text())
    assert record == {"sha256": downloads.file_sha256(path), "bytes": len(host.content), "source": host.address}
    path.write_bytes(host.content[:-1] + b"\1")
    with pytest.raises(UserError, match=r"is not the file that was recorded .*delete it to fetch it again"):
        load_features("inception", "clean", torch.device("cpu"))
    path.unlink()
    load_features("inception", "clean", torch.device("cpu"))
    assert path.read_bytes() == host.content


def test_a_file_put_there_by_hand_is_taken_and_recorded(inception_file: Path) -> None:
    import torch

    path = cache_folder() / "inception" / inception_file.name
    path.parent.mkdir(parents=True)
    path.write_bytes(inception_file.read_bytes())
    load_features("inception", "clean", torch.device("cpu"))
    path.write_bytes(b"other")
    with pytest.raises(UserError, match="is not the file that was recorded"):
        load_features("inception", "clean", torch.device("cpu"))


def test_inception_by_option_and_by_variable(
    inception_file: Path, cli: Cli, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = ["fid", "--run", tiny_run, "--features", "inception", "--n", 8, "--force", "--json"]
    keys = [
        json.loads(cli(*command, "--inception", given).out)["features"] for given in (inception_file, inception_file.parent)
    ]
    monkeypatch.setenv("BLURDIFF_INCEPTION", str(inception_file))
    keys.append(json.loads(cli(*command).out)["features"])
    assert keys == [f"inception-clean-{downloads.file_sha256(inception_file)[:16]}"] * 3

    absent = cli(*command, "--inception", tmp_path / "absent.pt")
    assert (absent.code, "absent.pt: no such file" in absent.err) == (2, True)
    wrong = cli(*command, "--inception", inception_file, "--mode", "legacy_pytorch")
    assert wrong.code == 1
    assert "not the Inception network of mode legacy_pytorch, pt_inception-2015-12-05-6726825d.pth" in wrong.err
    other = cli("fid", "--run", tiny_run, "--features", "pixels", "--inception", inception_file)
    assert (other.code, "is for --features inception" in other.err) == (2, True)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root, to give a file away")
def test_a_strangers_file_is_not_run(inception_file: Path, monkeypatch: pytest.MonkeyPatch, host: Host, tmp_path: Path) -> None:
    """Where clean-fid keeps the network, every user of a machine may write."""
    import torch

    monkeypatch.setenv("BLURDIFF_INCEPTION", host.address)
    host.manner = "404"
    planted = tmp_path / "elsewhere" / "network.pt"
    planted.parent.mkdir()
    planted.write_bytes(inception_file.read_bytes())
    assert load_features("inception", "clean", torch.device("cpu")).mode == "clean"
    os.chown(planted, 1234, 1234)
    with pytest.raises(UserError, match="404"):
        load_features("inception", "clean", torch.device("cpu"))


# Published statistics


def statistics_file(path: Path, count: int = 2048) -> bytes:
    np.savez(path, mu=np.zeros(count), sigma=np.eye(count))
    return path.read_bytes()


def test_published_statistics(
    host: Host, inception_file: Path, cli: Cli, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from blurcli.evaluate import reference

    monkeypatch.setattr(reference, "_PUBLISHED_URL", host.address.removesuffix("file"))
    host.content = statistics_file(tmp_path / "s.npz")
    command = [
        "fid",
        "--run",
        tiny_run,
        "--n",
        8,
        "--force",
        "--json",
        "--features",
        "inception",
        "--inception",
        inception_file,
    ]
    score = json.loads(cli(*command, "--reference", "cleanfid:cifar10").out)
    assert host.asked == ["/cifar10_clean_train_8.npz"]
    assert score["fid"] > 0
    assert score["kid"] is score["precision"] is score["log_spectral_distance"] is None
    assert score["reference_hash"] == downloads.file_sha256(cache_folder() / "cleanfid" / "cifar10_clean_train_8.npz")
    cli(*command, "--reference", "cleanfid:cifar10")
    cli(*command, "--reference", "cleanfid:cifar10", "--split", "test", "--mode", "legacy_tensorflow")
    cli(*command, "--reference", "cleanfid:ffhq:256:trainval70k")
    assert host.asked[1:] == ["/cifar10_legacy_tensorflow_test_8.npz", "/ffhq_clean_trainval70k_256.npz"]

    for wrong in (b"no statistics", statistics_file(tmp_path / "s.npz")[:-5000]):
        host.content = wrong
        failed = cli(*command, "--reference", "cleanfid:other")
        assert failed.code == 1
        assert "sent something other than other_clean_train_8.npz" in " ".join(failed.err.split())
        assert "a reference with --data" in " ".join(failed.err.split())
        assert not list((cache_folder() / "cleanfid").glob("other*"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--reference", "cifar10"], "unknown form; write cleanfid:NAME[:SIZE[:SPLIT]]"),
        (["--reference", "cleanfid:../x"], "unknown form; write cleanfid:NAME[:SIZE[:SPLIT]]"),
        (
            ["--reference", "cleanfid:cifar10", "--features", "pixels"],
            "holds statistics of Inception's features, not of pixels",
        ),
        (
            ["--reference", "cleanfid:cifar10", "--data", "photos"],
            "--reference and --data: both name a reference; use one of them",
        ),
    ],
)
def test_published_statistics_that_make_no_sense(
    cli: Cli, tiny_run: Path, inception_file: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    monkeypatch.setenv("BLURDIFF_INCEPTION", str(inception_file))
    done = cli("fid", "--run", tiny_run, "--n", 8, "--force", "--features", "inception", *arguments)
    assert done.code == 2
    assert text in " ".join(done.err.split())


# blurdiff prefetch


def test_prefetch_brings_what_a_preset_needs(
    host: Host, inception_file: Path, cli: Cli, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLURDIFF_INCEPTION", host.address)
    host.content = inception_file.read_bytes()
    preset = ["--preset", "folder-blur", "--data", photos, *settings()]
    done = cli("prefetch", *preset, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["data_train"].startswith("10 images of ")
    assert told["inception"].startswith("inception-clean-")

    # From here on without a network.
    host.manner = "404"
    monkeypatch.delenv("BLURDIFF_INCEPTION")
    assert cli("train", *preset, "--run", "r", "--set", "train.steps=1").code == 0
    scored = cli("fid", "--run", "r", "--n", 4, "--force", "--json")
    assert json.loads(scored.out)["fid"] > 0
    assert len(host.asked) == 1


def test_prefetch_of_a_preset_without_inception(cli: Cli) -> None:
    done = cli("prefetch", "--preset", "shapes-blur", *settings())
    assert done.code == 0, done.err
    assert "64 images of shapes train" in done.out
    assert "inception" not in done.out
    assert "prefetch needs --preset NAME" in cli("prefetch").err
    refused = cli("prefetch", "--preset", "shapes-blur", "--reference", "cleanfid:cifar10", *settings())
    assert refused.code == 2
    assert "the preset scores by pixels" in refused.err
