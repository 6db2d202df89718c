"""Damaged and hostile input through the real command line: `python tests/hostile.py`.

Every input must end in one message and exit code 1 or 2: no traceback, no bug of ours, no hang, no gigabytes, and no file
anywhere but where the command may write.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from conftest import settings
from PIL import Image

SETTINGS = settings("train.steps=4", "train.save_every_steps=2", "train.preview_images=1")
LONGEST = 60.0  # seconds; far more than any input needs, and far less than one that asks for all of the machine's time
MOST = 1 << 29  # bytes that a command may take beyond those that the process, PyTorch loaded, holds already

Case = tuple[str, list[str]]
"""What is wrong, and the command that must refuse it."""


def damaged(
    content: bytes, draw: random.Random, flips: int, cuts: int, front: int | None = None
) -> Iterator[tuple[str, bytes]]:
    """Copies of a file with one bit flipped (within its first `front` bytes), or cut short."""
    for _ in range(flips):
        place, bit = draw.randrange(front or len(content)), draw.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} flipped", bytes(flipped)
    for _ in range(cuts):
        length = draw.randrange(len(content))
        yield f"cut after {length} bytes", content[:length]


def headers(metadata: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Safetensors files whose headers lie."""

    def file(header: object, tail: bytes = b"", length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + tail

    good = {"__metadata__": metadata}
    for length in (2**63, 2**62, 2**40, 2**31, 10**8, 10**7):
        yield f"a header of {length} bytes claimed", file(good, length=length)
    yield "a header of 9 MB", file(b'{"a":"' + b"x" * 9_000_000 + b'"}')
    for name, entry in {
        "a tensor of exabytes": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]},
        "a shape that overflows": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 16]},
        "negative offsets": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        "an unknown dtype": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]},
        "offsets past the end": {"dtype": "F32", "shape": [99], "data_offsets": [0, 396]},
    }.items():
        yield name, file({**good, "t": entry}, b"\0" * 16)
    yield "no object", file([1, 2])
    yield "deep nesting", file(b"[" * 100_000)
    yield "no JSON", file(b"\xff\xfe" * 50)
    for key, value in {
        "step": "9" * 5000,
        "config": "[" * 200_000,
        "kind": "x",
        "format": "../../../etc/passwd",
        "format_version": "\u0000",
    }.items():
        yield f"metadata {key} of another kind", file({"__metadata__": {**metadata, key: value}})


def claims(weights: Path) -> Iterator[tuple[str, bytes]]:
    """Weights files with a right checksum and a wrong configuration, such as a stranger can write."""
    from safetensors import safe_open
    from safetensors.torch import save

    from blurcli.base.checkpoint import content_hash

    with safe_open(weights, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata.pop("sha256")

    def rewritten(**changes: object) -> bytes:
        config = json.loads(metadata["config"])
        for key, value in changes.items():
            section, _, name = key.partition("__")
            config[section][name] = value
        other = {**metadata, "config": json.dumps(config)}
        return save(tensors, {**other, "sha256": content_hash(tensors, other)})

    huge = {"model__base_channels": 4096, "model__blocks_per_level": 64, "model__multipliers": [64, 64]}
    yield "a network of terabytes", rewritten(**huge)
    yield "a network that is too large to name", rewritten(model__base_channels=10**9)
    yield "a million levels", rewritten(model__multipliers=[1] * 1_000_000)
    yield "a million blocks", rewritten(model__blocks_per_level=1_000_000)
    yield "another network", rewritten(model__base_channels=16)
    yield "images of other sizes", rewritten(data__image_size=[4096, 4096])
    yield "images of kilometres", rewritten(data__image_size=[10**6, 10**6])
    yield "a billion steps", rewritten(sample__steps=10**9)
    yield "a file that is code", rewritten(score__features="/tmp/evil.pt")
    yield "an unknown key", rewritten(data__path="/etc/passwd")
    yield "NaN", rewritten(process__blur_sigma_max=float("nan"))


YAML = {
    "empty list": "[]",
    "a number": "7",
    "text": "hello",
    "tab": "\tseed: 1",
    "unclosed": "model: {base_channels: 8",
    "binary": b"\x00\x01\x02\x80",
    "latin-1": "seed: é".encode("latin-1"),
    "alias bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [{','.join(['*' + chr(ord(c) - 1)] * 9)}]\n" for c in "bcdefghijk"),
    "one alias": "seed: &s 1\ndata: {shapes_count: *s}",
    "itself": "seed: &s [*s]",
    "python object": "seed: !!python/object/apply:os.system ['touch escaped']",
    "python name": "seed: !!python/name:os.system",
    "unknown tag": "seed: !secret 1",
    "deep list": "seed: " + "[" * 20_000,
    "deep mapping": "{a: " * 9_000,
    "100 kB": "# " + "x" * 100_000,
    "many keys": "".join(f"k{i}: 1\n" for i in range(7_000)),
    "twice": "seed: 1\nseed: 2",
    "a date that is none": "seed: 2020-13-45",
    "a number that is none": "seed: !!int hello",
    "a very long number": "seed: " + "9" * 20_000,
    "float": "seed: 1.5",
    "infinity": "optim: {lr: .inf}",
    "not a number": "optim: {lr: .nan}",
    "a yes": "seed: yes",
    "null": "seed: null",
    "null section": "data: null",
    "list for a section": "data: [1]",
    "number for a section": "data: 3",
    "mapping for a number": "seed: {a: 1}",
    "number as a key": "1: 2",
    "list as a key": "? [1]\n: 2",
    "mapping as a key": "? {a: 1}\n: 2",
    "null as a key": "null: 2",
    "unknown key": "color: red",
    "misspelt": "data: {imagesize: 8}",
    "two documents": "seed: 1\n---\nseed: 2",
    "extends itself": "extends: ./x.yaml",
    "extends a list": "extends: [a]",
    "extends nothing": "extends: ./absent.yaml",
    "extends a folder": "extends: /",
    "extends a device": "extends: /dev/zero",
    "extends no preset": "extends: /etc/passwd",
    "a file as features": "score: {features: /tmp/evil.pt}",
    "a file as training features": "train: {score_features: evil.pt}",
    "negative": "train: {steps: -1}",
    "zero": "train: {batch_size: 0}",
    "enormous": "data: {shapes_count: 1000000000000}",
    "enormous image": "data: {image_size: 1000000}",
    "odd image": "data: {image_size: 33}",
    "three sides": "data: {image_size: [8, 8, 8]}",
    "text image": "data: {image_size: big}",
    "falling range": "data: {value_range: [5, 5]}",
    "merge key": "base: &b {seed: 1}\n<<: *b",
    "windows line ends and a null": b"seed: 1\r\nobjective: null\r\n",
}


def png(width: int, height: int, body: bytes = b"", depth: int = 8, color: int = 2) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def images(draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Content of files that call themselves images."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for kind in ("png", "jpeg", "webp", "tiff", "bmp"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **({"compression": "tiff_deflate"} if kind == "tiff" else {}))
        content = buffer.getvalue()
        for length in sorted(draw.sample(range(len(content) // 2), 5)):
            yield f"{kind} cut after {length} bytes", content[:length]
        yield f"{kind} of zeros after its magic number", content[:12] + b"\0" * 500
    yield "nothing", b""
    yield "a page", b"<html><body>404</body></html>"
    yield "a gif", b"GIF89a" + b"\0" * 30
    yield "a postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch escaped) system\n"
    yield "a png of a million pixels a side", png(10**6, 10**6)
    yield "a png of 400 megapixels, all there", png(20_000, 20_000, b"\0" * 50_000_000, 1, 0)
    yield "a png without pixels", png(0, 0)
    yield "a png that stops", png(4000, 4000, b"\0" * 100)
    yield "a png of no known kind", png(8, 8, b"\0" * 300, 7, 9)


def zeros(archive: zipfile.ZipFile, name: str, head: bytes, megabytes: int) -> None:
    with archive.open(name, "w") as file:
        file.write(head)
        for _ in range(megabytes):
            file.write(bytes(10**6))


def archives(folder: Path, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Zip files: damaged, encrypted, and larger inside than out."""
    path = folder / "made.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"{i}.png", png(8, 8, np.random.default_rng(i).bytes(200)))
    content = path.read_bytes()
    for length in sorted(draw.sample(range(len(content)), 8)):
        yield f"cut after {length} bytes", content[:length]
    directory = content.index(b"PK\x01\x02")
    for name, place in {"method": 10, "flags": 8, "size": 24, "offset": 42}.items():
        for value in (0x01, 0x63, 0xFF):
            changed = bytearray(content)
            changed[directory + place] = value
            if bytes(changed) != content:
                yield f"{name} of its first file set to {value}", bytes(changed)
    other = bytearray(content)
    other[directory + 6] = 0x63
    yield "a version of another century", bytes(other)
    other = bytearray(content)
    other[directory + 9] |= 0x08
    other[directory + 46] = 0xA1
    yield "a name that is no UTF-8 and says that it is", bytes(other)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        zeros(archive, "bomb.png", b"", 400)
    yield "a file of 400 MB of zeros", path.read_bytes()
    for name in ("../../escaped.txt", "/escaped.txt", "a/" * 200 + "x.txt"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"no image")
        yield f"only {name[:20]}", path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder.png/", b"")
        archive.writestr("inner.zip", content)
    yield "only folders and archives", path.read_bytes()


def arrays(folder: Path, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Npz files."""
    path = folder / "made.npz"
    np.savez_compressed(path, np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8))
    content = path.read_bytes()
    for length in sorted(draw.sample(range(len(content)), 8)):
        yield f"cut after {length} bytes", content[:length]
    np.savez(path, np.array([{"a": 1}], object))
    yield "pickled objects", path.read_bytes()
    for name, array in {
        "floats": np.zeros((2, 8, 8, 3)),
        "a scalar": np.uint8(3),
        "five dimensions": np.zeros((2, 2, 8, 8, 3), np.uint8),
        "no pixels": np.zeros((2, 0, 8, 3), np.uint8),
        "four channels": np.zeros((2, 8, 8, 4), np.uint8),
        "text": np.array(["a", "b"]),
    }.items():
        np.savez(path, array)
        yield name, path.read_bytes()

    def lying(header: bytes, megabytes: int = 1) -> bytes:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            zeros(archive, "x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header, megabytes)
        return path.read_bytes()

    form = "{{'descr': '|u1', 'fortran_order': False, 'shape': {}, }}\n"
    yield "an array of exabytes", lying(form.format((2**30, 2**12, 2**12, 3)).encode())
    yield "images of kilometres", lying(form.format((9, 10**6, 10**6, 3)).encode())
    yield "a negative shape", lying(form.format((-1, 8, 8, 3)).encode())
    yield "a header that is code", lying(b"__import__('os').system('touch escaped')\n")
    yield "a header that is nothing", lying(b"\n")
    yield "a deep header", lying(b"(" * 9000)
    yield "a gigabyte that ends too soon", lying(form.format((400, 1024, 1024, 3)).encode(), 300)
    yield "floats of 300 MB, as bytes", lying(form.replace("|u1", "<f8").format((36, 1024, 1024, 1)).encode(), 302)


def networks(draw: random.Random, folder: Path) -> Iterator[tuple[str, bytes]]:
    """TorchScript files."""
    import torch

    path = folder / "made.pt"
    torch.jit.script(torch.nn.Flatten()).save(str(path))
    content = path.read_bytes()
    for length in sorted(draw.sample(range(len(content)), 6)):
        yield f"cut after {length} bytes", content[:length]
    torch.save({"a": torch.zeros(3)}, path)
    yield "a pickle of tensors", path.read_bytes()
    yield "a pickle of code", b"cos\nsystem\n(S'touch escaped'\ntR."
    yield "nothing", b""
    yield "text", b"no network"


def cases(folder: Path) -> Iterator[Case]:
    """All inputs, written one after the other into `folder`."""
    draw = random.Random(0)
    run = folder / "good"
    weights, state = sorted((run / "weights").iterdir())[-1], run / "state.safetensors"

    def written(name: str, content: bytes | str) -> Path:
        path = folder / "input" / name
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    sample = ["sample", "--n", "1", "--out", str(folder / "out" / "x.png"), "--weights"]
    content = weights.read_bytes()
    head = struct.unpack("<Q", content[:8])[0]
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        metadata = dict(file.metadata())
    for what, other in (
        *damaged(content, draw, 20, 15),
        *damaged(content, draw, 25, 0, head),
        *headers(metadata),
        *claims(weights),
    ):
        yield f"weights: {what}", [*sample, str(written("w.safetensors", other))]
    yield "weights: a state", [*sample, str(state)]
    yield "weights: a folder", [*sample, str(run)]

    content = state.read_bytes()
    for what, other in (*damaged(content, draw, 12, 8), *damaged(content, draw, 10, 0, head)):
        broken = folder / "input"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(run, broken)
        (broken / "state.previous.safetensors").unlink()
        (broken / "state.safetensors").write_bytes(other)
        yield f"state: {what}", ["train", "--run", str(broken), "--set", "train.steps=6"]

    for what, text in YAML.items():
        yield f"YAML: {what}", ["train", "--dry-run", "--preset", str(written("x.yaml", text))]

    train = ["train", "--preset", "shapes-blur", "--run", str(folder / "out" / "r"), *SETTINGS, "--data"]
    for what, other in images(draw):
        yield f"image: {what}", [*train, str(written("x.png", other).parent)]
    for what, other in archives(folder, draw):
        yield f"zip: {what}", [*train, str(written("x.zip", other))]
    score = ["fid", "--force", "--features", "pixels", "--data", str(folder / "photos"), "--samples"]
    for what, other in arrays(folder, draw):
        yield f"npz: {what}", [*score, str(written("x.npz", other))]
    scorer = ["fid", "--samples", str(folder / "photos"), "--data", str(folder / "photos"), "--features"]
    for what, other in networks(draw, folder):
        yield f"network: {what}", [*scorer, str(written("x.pt", other))]
    inception = ["fid", "--samples", str(folder / "photos"), "--data", str(folder / "photos"), "--force", "--inception"]
    for mode in ("clean", "legacy_tensorflow", "legacy_pytorch"):
        for what, other in networks(draw, folder):
            yield f"Inception, {mode}: {what}", [*inception, str(written("x.pt", other)), "--mode", mode]


def memory(which: str) -> int:
    """Bytes that this process holds now (VmRSS), or has held at most since `forget_peak` (VmHWM)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which)]
    return int(line.split()[1]) << 10


def forget_peak() -> None:
    """Let VmHWM begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def tree(folder: Path) -> set[Path]:
    """All files that are not for a command to write."""
    mine = ("cache", "out", "runs", "input")
    return {path for path in folder.rglob("*") if path.relative_to(folder).parts[0] not in mine and path.is_file()}


def command(arguments: list[str]) -> tuple[int, str]:
    """Exit code and messages of a command line, run in this process."""
    from blurcli.base import console
    from blurcli.cli import main

    messages = io.StringIO()
    console._stderr.file = messages
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as stop:
            return int(stop.code or 0), messages.getvalue()
    raise AssertionError("a command line ends by exiting")


def hostile(folder: Path) -> tuple[Counter[str], list[str]]:
    """Run everything; returns how many of each kind there were, and what went wrong."""
    code, text = command(["train", "--preset", "shapes-blur", "--run", str(folder / "good"), *SETTINGS])
    assert code == 0, text
    (folder / "photos").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / "photos" / f"{i}.png")
    before, wrong, done = tree(folder), [], Counter[str]()
    slowest, most = 0.0, 0
    for what, arguments in cases(folder):
        for made in ("made.zip", "made.npz", "made.pt"):
            before.add(folder / made)
        forget_peak()
        held, started = memory("VmRSS"), time.monotonic()
        code, text = command(arguments)
        seconds, taken = time.monotonic() - started, memory("VmHWM") - held
        slowest, most = max(slowest, seconds), max(most, taken)
        done[what.split(":")[0]] += 1
        faults = {
            f"exit code {code}": code not in (1, 2),
            "no message": not text.strip(),
            f"{taken >> 20} MiB": taken > MOST,
            "a traceback": "Traceback" in text,
            "a bug of ours": "a bug in blurdiff" in text,
            f"{seconds:.1f} s": seconds > LONGEST,
            "escaped": bool(tree(folder) - before) or (folder.parent / "escaped").exists(),
        }
        wrong += [f"{what}: {fault} ({text.strip()[:300]})" for fault, found in faults.items() if found]
    print(json.dumps({"inputs": sum(done.values()), "slowest_sec": round(slowest, 2), "most_mib": most >> 20, **done}))
    return done, wrong


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.environ["BLURDIFF_CACHE"] = str(Path(place) / "cache")
        os.chdir(place)
        _, faults = hostile(Path(place))
        os.chdir("/")
    print("\n".join(faults))
    sys.exit(bool(faults))
