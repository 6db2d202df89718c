"""Random presets, assignments, images, archives, arrays and weights through the real command line.

    python tests/fuzz.py CASES [SEED] [KIND ...]

CASES of each kind, or with `KIND:NUMBER` that one again. Every one must end in success or in one message with exit code 1 or 2: no traceback, no bug of ours, no hang,
no memory beyond a bound, and no file but where the command may write. The last line of the output is a JSON object with counts
and times; faults come before it.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hostile import LONGEST, MOST, SETTINGS, YAML, command, forget_peak, memory, tree
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from blurcli.base.checkpoint import content_hash

PRESETS = Path(__file__).parent.parent / "presets"
WORDS = [
    *("0", "-1", "1e3", "1e309", "-0.0", "nan", "inf", ".nan", ".inf", "0x10", "017", "1_000", "190:20:30", "1e400", "9" * 30),
    *(
        "null",
        "~",
        "true",
        "yes",
        "off",
        "[]",
        "{}",
        "[1,2]",
        "[[1]]",
        "[1e9,1e9]",
        "{a: 1}",
        "'x'",
        '"',
        "&a",
        "*a",
        "!!int 1",
    ),
    *("2020-01-01", "12:30", "- a", "é", "\u202e", "\x00", "\ud800", " ", "\n", "\t", "a" * 5000, "[" * 300, "<<", "=", "."),
    *("../..", "/dev/zero", "~", "~nobody/x", "$HOME", "hf://a/b", "shapes", "cifar10", "sin2", "noise-ratio", "spectral"),
]
FORMATS = [
    "PNG",
    "JPEG",
    "WEBP",
    "TIFF",
    "BMP",
    "GIF",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "SGI",
    "JPEG2000",
    "AVIF",
    "DDS",
    "IM",
    "QOI",
]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A copy with a few random changes: bits, bytes, numbers, cuts, repeats and swaps, mostly near the front."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        if not data:
            break
        end = len(data) if draw.random() < 0.4 else min(len(data), 200)
        at, length = draw.randrange(end), draw.choice((1, 2, 4, 8, 50))
        match draw.randrange(7):
            case 0:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                data[at : at + length] = draw.choice((b"\0", b"\xff", b"\x7f")) * length
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * draw.choice((1, 2, 40))
            case 5:
                other = draw.randrange(len(data))
                data[at : at + length] = data[other : other + length]
            case _:
                del data[draw.randrange(len(data)) :]
    return bytes(data)


class Fuzzer:
    """Makes cases in a folder that holds a good run, `good`, and images, `photos`.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = max((folder / "good" / "weights").iterdir())
        self.weights = path.read_bytes()
        with safe_open(path, framework="pt") as file:
            self.metadata = dict(file.metadata())
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        self.state = (folder / "good" / "state.safetensors").read_bytes()
        self.presets = [path.read_text(encoding="utf-8") for path in PRESETS.glob("*.yaml")]
        self.keys = sorted({key for text in self.presets for key in _keys(text)})

    @property
    def kinds(self) -> dict[str, Callable[[random.Random], list[str]]]:
        """What makes a command of each kind."""
        return {
            "preset": self.preset,
            "set": self.assignment,
            "image": self.image,
            "archive": self.archive,
            "array": self.array,
            "weights": self.file_of_weights,
            "state": self.run_state,
            "labels": self.labels,
        }

    def written(self, name: str, content: bytes) -> Path:
        """A file in an otherwise empty folder."""
        path = self.folder / "input" / name
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return path

    def preset(self, draw: random.Random) -> list[str]:
        """A preset with changed bytes, or changed values and keys."""
        text = draw.choice([*self.presets, *(t if isinstance(t, str) else t.decode("latin-1") for t in YAML.values())])
        if draw.random() < 0.5:
            content = mutated(text.encode(errors="surrogatepass"), draw)
        else:
            lines = text.splitlines() or [""]
            for _ in range(draw.randint(1, 4)):
                at = draw.randrange(len(lines))
                key = lines[at].split(":")[0]
                lines[at] = draw.choice(
                    (f"{key}: {draw.choice(WORDS)}", lines[at] + draw.choice(WORDS), lines[at] * 2, "  " + key)
                )
                lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
            content = "\n".join(lines).encode(errors="surrogatepass")
        return ["train", "--dry-run", "--preset", str(self.written("x.yaml", content))]

    def assignment(self, draw: random.Random) -> list[str]:
        """Settings of the command line."""
        assignments = []
        for _ in range(draw.choice((1, 1, 1, 2))):
            key, value = draw.choice(self.keys), draw.choice(WORDS)
            if draw.random() < 0.2:
                key = mutated(key.encode(), draw).decode(errors="replace")
            plain = (str(draw.randint(1, 9)), str(draw.uniform(0, 1)), "null", "false")
            value = draw.choice(
                (
                    *plain,
                    value,
                    f"[{value}]",
                    value + draw.choice(WORDS),
                    str(draw.uniform(-1e3, 1e3)),
                    str(draw.randint(-9, 999)),
                )
            )
            assignments.append(f"{key}={value}" if draw.random() < 0.95 else key + value)
        preset = draw.choice(("shapes-blur", "cifar10-blur", "shapes-heat", "folder-small"))
        return ["train", "--dry-run", "--preset", preset, *(part for one in assignments for part in ("--set", one))]

    def image(self, draw: random.Random) -> list[str]:
        """A photo with changed bytes, among good ones half of the time, before `data` and `train`."""
        kind = draw.choice(FORMATS)
        mode = draw.choice(("RGB", "RGB", "L", "P", "CMYK", "RGBA", "I;16", "1", "LA"))
        size = (draw.randint(1, 40), draw.randint(1, 40))
        buffer = io.BytesIO()
        try:
            drawn = np.frombuffer(draw.randbytes(size[0] * size[1] * 3), np.uint8).reshape(size[1], size[0], 3)
            Image.fromarray(drawn).convert(mode).save(buffer, kind)
        except (OSError, ValueError, KeyError):
            Image.new("RGB", size).save(buffer, "PNG")
        path = self.written(f"x.{kind.lower().replace('jpeg2000', 'jp2')}", mutated(buffer.getvalue(), draw))
        if draw.random() < 0.5:
            for photo in (self.folder / "photos").iterdir():
                shutil.copy(photo, path.parent)
        return self._reading(path.parent, draw)

    def archive(self, draw: random.Random) -> list[str]:
        """A zip archive with changed bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(
            buffer, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
        ) as archive:
            for index, photo in enumerate((self.folder / "photos").iterdir()):
                archive.write(photo, draw.choice((f"a/{index}.png", f"{index}.png", f"../{index}.png", "same.png")))
            archive.writestr("dataset.json", '{"labels": [["a/0.png", 1]]}')
        content = buffer.getvalue()
        if draw.random() < 0.5:  # the directory, which is at the end
            directory = content.index(b"PK\x01\x02")
            content = content[:directory] + mutated(content[directory:], draw)
        else:
            content = mutated(content, draw)
        return self._reading(self.written("x.zip", content), draw)

    def array(self, draw: random.Random) -> list[str]:
        """A NumPy file with changed bytes."""
        buffer = io.BytesIO()
        count, size = draw.randint(0, 6), draw.choice((0, 1, 8, 9))
        form = draw.choice(("u1", "u1", "u2", "f4", "i8", "c8", "?", "S3", "M8[s]"))
        shape = draw.choice(
            ((count, size, size, 3), (count, size, size), (size, size, 3), (count, 3, size, size), (count,), ())
        )
        values = np.zeros(shape, form)
        zipped = draw.random() < 0.5
        if zipped:
            np.savez_compressed(buffer, values, other=values)
        else:
            np.save(buffer, values)
        content = buffer.getvalue() if draw.random() < 0.3 else mutated(buffer.getvalue(), draw)
        path = self.written("x.npz" if zipped else "x.npy", content)
        if draw.random() < 0.5:
            return self._reading(path if zipped else path.parent, draw)
        return ["fid", "--force", "--features", "pixels", "--data", str(self.folder / "photos"), "--samples", str(path)]

    def file_of_weights(self, draw: random.Random) -> list[str]:
        """Weights with changed bytes; or with another configuration and tensors, and a right checksum."""
        content = mutated(self.weights, draw) if draw.random() < 0.3 else self._signed(draw)
        path = self.written("w.safetensors", content)
        out = str(self.folder / "out" / "x.png")
        return ["sample", "--n", "1", "--out", out, "--weights", str(path)]

    def _signed(self, draw: random.Random) -> bytes:
        metadata, tensors = dict(self.metadata), dict(self.tensors)
        metadata.pop("sha256")
        config = json.loads(metadata["config"])
        for _ in range(draw.randint(0, 2)):
            section = draw.choice([config, *(part for part in config.values() if isinstance(part, dict))])
            section[draw.choice(list(section))] = draw.choice(
                (None, 0, -1, 1e30, 10**12, [], [0, 0], {}, "x", True, 3, 16, "spectral")
            )
        metadata["config"] = json.dumps(config)
        metadata[draw.choice(("step", "classes", "other"))] = draw.choice(
            ("3", "x", "", "[]", '{"names": ["a"], "counts": [0]}')
        )
        if draw.random() < 0.4:
            name = draw.choice(list(tensors))
            tensor = tensors.pop(name)
            nan, large = tensor * float("nan"), tensor * 1e30
            if (
                other := draw.choice((nan, large, tensor[..., :0], tensor.double(), tensor.half(), tensor.flatten(), None))
            ) is not None:
                tensors[name] = other
        return save(tensors, {**metadata, "sha256": content_hash(tensors, metadata)})

    def run_state(self, draw: random.Random) -> list[str]:
        """A run whose state, configuration or records have changed bytes."""
        run = self.folder / "input"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(self.folder / "good", run)
        name = draw.choice(("state.safetensors", "config.yaml", "metrics.jsonl", "state.previous.safetensors"))
        (run / name).write_bytes(mutated((run / name).read_bytes(), draw))
        return draw.choice((["train", "--run", str(run)], ["plot", str(run), "--out", str(self.folder / "out" / "p.png")]))

    def labels(self, draw: random.Random) -> list[str]:
        """`dataset.json` with changed bytes, or of other content."""
        names = sorted(path.name for path in (self.folder / "photos").iterdir())
        good = json.dumps({"labels": [[name, index % 2] for index, name in enumerate(names)]})
        other = draw.choice(
            ("[]", "{}", '{"labels": 3}', '{"labels": [[1, 2]]}', '{"labels": null}', '{"labels": [["0.png", 1e99]]}')
        )
        content = mutated(good.encode(), draw) if draw.random() < 0.7 else other.encode()
        path = self.written("dataset.json", content)
        for photo in (self.folder / "photos").iterdir():
            shutil.copy(photo, path.parent)
        return [*self._reading(path.parent, draw, "data.classes=2")]

    def _reading(self, source: Path, draw: random.Random, *more: str) -> list[str]:
        if draw.random() < 0.7:
            return ["data", str(source), "--json"]
        run = self.folder / "out" / "r"
        shutil.rmtree(run, ignore_errors=True)
        given = [part for assignment in ("train.steps=1", *more) for part in ("--set", assignment)]
        return ["train", "--preset", "shapes-blur", "--run", str(run), *SETTINGS, *given, "--data", str(source)]


def _keys(text: str) -> list[str]:
    found, section = [], ""
    for line in text.splitlines():
        if named := re.match(r"( *)(\w+):", line):
            section = "" if not named[1] else section
            found.append(f"{section}.{named[2]}" if named[1] else named[2])
            section = section or named[2]
    return found


def fuzz(folder: Path, cases: int, seed: int, only: list[str]) -> list[str]:
    """Run so many cases of each kind; returns what went wrong."""
    settings = ["train", "--preset", "shapes-blur", "--run", str(folder / "good"), *SETTINGS]
    code, text = command(settings)
    assert code == 0, text
    (folder / "photos").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / "photos" / f"{i}.png")
    fuzzer, before, wrong = Fuzzer(folder), tree(folder), []
    ends, slowest, most, begun = Counter[str](), 0.0, 0, time.monotonic()
    for chosen in only or fuzzer.kinds:
        kind, _, one = chosen.partition(":")
        for number in [int(one)] if one else range(cases):
            name = f"{kind} {seed} {number}"
            arguments = fuzzer.kinds[kind](random.Random(name))
            forget_peak()
            held, started = memory("VmRSS"), time.monotonic()
            try:
                code, text = command(arguments)
            except BaseException as error:  # what went past the command line's own handler
                code, text = -1, repr(error)
            seconds, taken = time.monotonic() - started, memory("VmHWM") - held
            slowest, most = max(slowest, seconds), max(most, taken)
            ends[f"{kind}: {code}"] += 1
            faults = {
                f"exit code {code}": code not in (0, 1, 2),
                "no message": code != 0 and not text.strip(),
                f"{taken >> 20} MiB": taken > MOST,
                "a traceback": "Traceback" in text,
                "a bug of ours": "a bug in blurdiff" in text,
                f"{seconds:.1f} s": seconds > LONGEST,
                "escaped": bool(tree(folder) - before),
            }
            wrong += [f"{name}: {fault} ({arguments} {text.strip()[-400:]})" for fault, found in faults.items() if found]
    report = {"cases": sum(ends.values()), "faults": len(wrong), "sec": round(time.monotonic() - begun, 1)}
    print("\n".join(wrong))
    print(json.dumps({**report, "slowest_sec": round(slowest, 2), "most_mib": most >> 20, **ends}))
    return wrong


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        os.environ["BLURDIFF_CACHE"] = str(Path(place) / "cache")
        os.chdir(place)
        number = int(sys.argv[2]) if len(sys.argv) > 2 else 0
        found = fuzz(Path(place), int(sys.argv[1]), number, sys.argv[3:])
        os.chdir("/")
    sys.exit(bool(found))
