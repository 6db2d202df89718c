"""`blurdiff data`."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blurcli.base.errors import UsageError, UserError, one_line
from blurcli.cli import completion
from blurcli.cli.common import AssignmentsOption, JsonOption
from blurcli.workflows.session import Assignments, overrides_of, resolve_preset
from blurcli.workflows.training_setup import choose_preset

if TYPE_CHECKING:
    from blurcli.config import Config, DataConfig
    from blurcli.data.archives import ImageFiles
    from blurcli.data.images import Range
    from blurcli.data.inspection import Inspection

_LEFT = 0.005  # share of the variance within images that remains after the suggested blur
_BLUR_IMAGES = 64
_FLAT = 1e-6  # mean squared DCT coefficient of images in [-1, 1] without contrast: below rounding to 8 bits
_LISTED = 10  # names; the rest are counted
_UNREADABLE = "folder-blur"  # the preset if no image can be read


def data(
    path: Annotated[str, typer.Argument(help="Folder, .zip or LMDB database of images, or a manually downloaded dataset.")],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="Name of a preset, or a YAML file. [default: what train --data chooses]",
            autocompletion=completion.presets,
        ),
    ] = None,
    assignments: AssignmentsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report what a source of images holds, and a suitable blur.

    Formats, unreadable files, duplicates, and what a training makes of them; they are only read, and nothing is packed.
    """
    from blurcli.base import console
    from blurcli.config import DATASET_NAMES, resolve_source
    from blurcli.data.inspection import inspect_images
    from blurcli.data.manual_datasets import MANUAL_DATASETS
    from blurcli.data.sources import open_source

    if path in DATASET_NAMES and path not in MANUAL_DATASETS and not Path(path).exists():
        raise UsageError(f"{path}: a dataset that is no files of images; name a folder, .zip or LMDB database of them")
    resolved, name = _preset(preset, path, assignments)
    config = resolved.data
    with (
        open_source(resolve_source(path), "train", config.image_size) as files,
        console.progress("inspecting images", len(files.names)) as update,
    ):
        found = inspect_images(files, config, update)
        blur = _blur([name for name in files.names if name not in found.broken], files, config, resolved.process.blur_sigma_max)
    if as_json:
        then = {"preset": name, "image_size": list(config.image_size), "then": _consequences(found, config), "blur": blur}
        console.result_json({"path": str(files.place), **found.as_json(), **then})
    else:
        console.table(["found in", str(files.place)], _facts(found))
        height, width = config.image_size
        console.result(f"\nwith the preset {name} at {height}x{width}{', gray' if config.channels == 1 else ''}:")
        for consequence in _consequences(found, config):
            console.result(f"- {consequence}")
        if blur:
            console.result(
                f"- a blur of {blur['suggested_px']:g} px leaves {_LEFT:.1%} of the variance within these images, as the "
                f"paper's 20 px do for CIFAR-10 (--set process.blur_sigma_max={blur['suggested_px']:g}); the preset's "
                f"{blur['preset_px']:g} px leave {blur['preset_leaves']:.2%}"
            )


def _preset(preset: str | None, path: str, assignments: Assignments | None) -> tuple[Config, str]:
    """The named preset for these images, or the one that training would choose, and its name."""
    from blurcli.config import resolve_source

    if preset is None:
        with suppress(UserError):  # if no image can be read, each is reported
            choice = choose_preset(resolve_source(path), "auto", overrides_of(assignments))
            return choice.config, choice.preset
    name = preset or _UNREADABLE
    return resolve_preset(name, path, assignments), Path(name).stem


def _blur(names: list[str], files: ImageFiles, config: DataConfig, preset_px: float | None) -> dict[str, float] | None:
    """A suitable largest blur from the power spectrum of some images; None if all are flat or the preset has no limit."""
    if preset_px is None:
        return None
    import numpy as np
    import torch

    from blurcli.core.dct import dct2
    from blurcli.core.schedules import blur_that_leaves, variance_left
    from blurcli.data.images import decode

    chosen = [names[i] for i in np.linspace(0, len(names) - 1, min(len(names), _BLUR_IMAGES)).astype(int)]
    images = []
    for name in chosen:
        with suppress(UserError):  # such as values without a known range, reported elsewhere
            images.append(decode(files.read(name), name, *config.image_size, config.channels, config.value_range))
    if not images:
        return None
    power = (dct2(torch.from_numpy(np.stack(images)).float() / 127.5 - 1) ** 2).mean(0)
    if power.flatten(1)[:, 1:].mean() < _FLAT:
        return None
    suggested = float(f"{blur_that_leaves(power, _LEFT):.2g}")
    return {"suggested_px": suggested, "preset_px": preset_px, "preset_leaves": variance_left(power, preset_px)}


def _facts(found: Inspection) -> list[list[str]]:
    from blurcli.data.notes import count_by_reason

    facts = {
        "images": f"{found.images:,}",
        "size (height x width)": _sizes(found),
        "modes": _counts(found.modes.most_common()),
        "values of more than 8 bits": "{:g} to {:g}".format(*found.deep_values) if found.deep_values else "",
        "rotated upright": f"{found.turned:,}" if found.turned else "",
        "transparent": f"{found.transparent:,}" if found.transparent else "",
        "animated": _names(found.animated),
        "duplicates": _names([" = ".join(_few(group)) for group in found.duplicates]),
        "classes (dataset.json)": _counts(found.classes.most_common()) if found.classes else "",
        "unreadable": _names([f"{name} ({reason})" for name, reason in found.broken.items()]),
        "skipped": count_by_reason(found.left_out) or "",
    }
    return [[what, value] for what, value in facts.items() if value]


def _sizes(found: Inspection) -> str:
    """The size of all images, or the smallest, median and largest one by area."""
    sizes = sorted(found.sizes.elements(), key=lambda size: (size[0] * size[1], size))
    if not sizes:
        return ""
    smallest, median, largest = (f"{height}x{width}" for height, width in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
    return smallest if len(found.sizes) == 1 else f"smallest {smallest}, median {median}, largest {largest}"


def _counts(counted: list[tuple[str, int]]) -> str:
    text = ", ".join(f"{name}: {count:,}" for name, count in counted[:_LISTED])
    return text + (f", and {len(counted) - _LISTED:,} others" if len(counted) > _LISTED else "")


def _names(names: list[str]) -> str:
    return f"{len(names):,}: " + ", ".join(_few(names)) if names else ""


def _few(names: list[str]) -> list[str]:
    return [one_line(name) for name in names[:_LISTED]] + (["..."] if len(names) > _LISTED else [])


def _consequences(found: Inspection, config: DataConfig) -> list[str]:
    """How training uses these images, and the keys to change it."""
    height, width = config.image_size
    notes = []
    if broken := len(found.broken):
        fate = (
            "skipped"
            if broken <= config.max_broken
            else f"too many: training stops, because data.max_broken is {config.max_broken}"
        )
        notes.append(f"the unreadable files ({broken:,}) are {fate}")
    if not found.images:
        return [*notes, *([_deep(found.deep_values, config, used=False)] if found.deep_values is not None else [])]
    if config.crop == "random":
        notes.append(f"patches of {height}x{width} at random places, about {config.crops:,} in all")
        enlarged = {size: count for size, count in found.sizes.items() if size[0] < height or size[1] < width}
        found = replace(found, sizes=Counter(enlarged))
    cropped = sum(count for (h, w), count in found.sizes.items() if max(height / h, width / w) == 1)
    if only := cropped - found.sizes[height, width]:
        notes.append(f"{only:,} are cropped around the center")
    if other := sum(found.sizes.values()) - cropped:
        notes.append(f"{other:,} are resized to cover {height}x{width} and cropped around the center")
    if small := sum(count for (h, w), count in found.sizes.items() if h < height or w < width):
        notes.append(f"{small:,} of these are enlarged and look blurred: use a smaller data.image_size")
    long = sum(count for (h, w), count in found.sizes.items() if max(h * width, w * height) > 2 * min(h * width, w * height))
    if long:
        notes.append(f"{long:,} of these lose more than half of their area to the crop")
    if found.transparent:
        notes.append(f"{found.transparent:,} are composited over white")
    if found.animated:
        notes.append(f"only the first frame of {len(found.animated):,} animated files is used")
    if found.deep_values is not None:
        used = any(mode in ("I", "F") or mode.startswith("I;16") for mode in found.modes)
        notes.append(_deep(found.deep_values, config, used))
    if found.classes:
        notes.append(f"with data.classes={len(found.classes)} the classes come from dataset.json, not the sub-folders")
    gray = sum(count for mode, count in found.modes.items() if mode in ("1", "L", "LA", "I", "F") or mode.startswith("I;16"))
    if gray == found.images and config.channels != 1:
        notes.append("all are gray: use data.channels=1")
    elif gray < found.images and config.channels == 1:
        notes.append(f"{found.images - gray:,} lose their colors: data.channels is 1")
    if found.duplicates:
        extra = sum(len(group) - 1 for group in found.duplicates)
        notes.append(f"{extra:,} duplicate {'image is' if extra == 1 else 'images are'} kept")
    return notes or [f"all are used unchanged, {height}x{width}"]


def _deep(values: Range, config: DataConfig, used: bool) -> str:
    from blurcli.base.console import flag
    from blurcli.base.errors import spelled
    from blurcli.data.notes import depth, suggested_range

    if not used and config.value_range is None:
        start, end = suggested_range(values)
        return f"floating-point values need a range: use --set 'data.value_range=[{start:g},{end:g}]'"
    low, high = config.value_range or (0, 65535)
    scaled = f"values of more than 8 bits are scaled so that {low:g} is black and {high:g} is white"
    return spelled(depth(values, config.value_range) or scaled, flag)
