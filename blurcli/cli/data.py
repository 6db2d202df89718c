"""`blurdiff data`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from blurcli.cli.common import AssignmentsOption, JsonOption, PresetOption, resolve_preset, resolve_source
from blurcli.errors import UserError

if TYPE_CHECKING:
    from blurcli.config import DataConfig
    from blurcli.data.places import ImageFiles
    from blurcli.data.survey import Survey

_LEFT = 0.005  # of the variance within images, by the blur that is suggested
_LOOKED_AT = 64  # images, for that
_FLAT = 1e-6  # mean squared DCT coefficient of images, in [-1, 1], that have no contrast: less than rounding to 8 bits makes
_NAMED = 10  # files, before the rest are only counted


def data(
    path: Annotated[
        str, typer.Argument(help="Folder, .zip or LMDB database of images, or a dataset that is downloaded by hand.")
    ],
    preset: PresetOption = "folder-blur",
    assignments: AssignmentsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report what images there are, which are broken or double, what a preset would make of them, and what blur suits them.

    Nothing is written.
    """
    from blurcli import console
    from blurcli.data.published import open_source
    from blurcli.data.survey import survey

    resolved = resolve_preset(str(preset), path, assignments)
    config = resolved.data
    with (
        open_source(resolve_source(path), "train", config.image_size) as files,
        console.progress("looking at images", len(files.names)) as update,
    ):
        found = survey(files, update)
        blur = _blur([name for name in files.names if name not in found.broken], files, config, resolved.process.blur_sigma_max)
    if as_json:
        console.result_json({"path": str(files.place), **found.as_json(), "then": _consequences(found, config), "blur": blur})
    else:
        console.table(["found in", str(files.place)], _facts(found))
        console.result("")
        for consequence in _consequences(found, config):
            console.result(f"- {consequence}")
        if blur:
            console.result(
                f"- a blur of {blur['suggested_px']:g} px would leave {_LEFT:.1%} of the variance within these images, as the "
                f"paper's 20 px do of CIFAR-10 (--set process.blur_sigma_max={blur['suggested_px']:g}); the preset's "
                f"{blur['preset_px']:g} px leave {blur['preset_leaves']:.2%}"
            )


def _blur(names: list[str], files: ImageFiles, config: DataConfig, preset_px: float) -> dict[str, float] | None:
    """How much blur would do, by the power spectrum of some of the images; None where they are all flat."""
    import numpy as np
    import torch

    from blurcli.core.dct import dct2
    from blurcli.core.schedule import blur_that_leaves, variance_left
    from blurcli.data.images import decode

    chosen = [names[i] for i in np.linspace(0, len(names) - 1, min(len(names), _LOOKED_AT)).astype(int)]
    images = []
    for name in chosen:
        with suppress(UserError):  # as for values whose range is not known, which is said elsewhere
            images.append(decode(files.read(name), name, *config.image_size, config.channels, config.value_range))
    if not images:
        return None
    power = (dct2(torch.from_numpy(np.stack(images)).float() / 127.5 - 1) ** 2).mean(0)
    if power.flatten(1)[:, 1:].mean() < _FLAT:
        return None
    suggested = float(f"{blur_that_leaves(power, _LEFT):.2g}")
    return {"suggested_px": suggested, "preset_px": preset_px, "preset_leaves": variance_left(power, preset_px)}


def _facts(found: Survey) -> list[list[str]]:
    sizes = found.sizes.most_common()
    facts = {
        "images": f"{found.images:,}",
        "sizes (height x width)": _counts([(f"{height}x{width}", count) for (height, width), count in sizes]),
        "modes": _counts(found.modes.most_common()),
        "values of more than 8 bits": "{:g} to {:g}".format(*found.deep_values) if found.deep_values else "",
        "turned upright": f"{found.turned:,}" if found.turned else "",
        "transparent": f"{found.transparent:,}" if found.transparent else "",
        "animated": _names(found.animated),
        "double": _names([" = ".join(_few(group)) for group in found.duplicates]),
        "broken": _names([f"{name} ({reason})" for name, reason in found.broken.items()]),
    }
    return [[what, value] for what, value in facts.items() if value]


def _counts(counted: list[tuple[str, int]]) -> str:
    text = ", ".join(f"{name}: {count:,}" for name, count in counted[:_NAMED])
    return text + (f", and {len(counted) - _NAMED:,} others" if len(counted) > _NAMED else "")


def _names(names: list[str]) -> str:
    return f"{len(names):,}: " + ", ".join(_few(names)) if names else ""


def _few(names: list[str]) -> list[str]:
    return names[:_NAMED] + (["..."] if len(names) > _NAMED else [])


def _consequences(found: Survey, config: DataConfig) -> list[str]:
    """What becomes of these images, and what to change where that may not be meant."""
    height, width = config.image_size
    said = []
    if broken := len(found.broken):
        fate = (
            "left out"
            if broken <= config.max_broken
            else f"too many: a training stops, as data.max_broken is {config.max_broken}"
        )
        said.append(f"the broken files ({broken:,}) are {fate}")
    if other := found.images - found.sizes[height, width]:
        said.append(f"{other:,} are resized so that they cover {height}x{width}, and cropped about the centre")
    if small := sum(count for (h, w), count in found.sizes.items() if h < height or w < width):
        said.append(f"{small:,} of these are enlarged, and will look blurred: data.image_size may be smaller")
    long = sum(count for (h, w), count in found.sizes.items() if max(h * width, w * height) > 2 * min(h * width, w * height))
    if long:
        said.append(f"{long:,} of these lose more than half of their area to the crop")
    if found.transparent:
        said.append(f"{found.transparent:,} are laid over white")
    if found.animated:
        said.append(f"of {len(found.animated):,} animated files the first frame is taken")
    if found.deep_values is not None:
        said.append(_deep(found.deep_values, config))
    grey = sum(count for mode, count in found.modes.items() if mode in ("1", "L", "LA", "I", "F") or mode.startswith("I;16"))
    if grey == found.images and config.channels != 1:
        said.append("all are grey: data.channels=1 would do")
    elif grey < found.images and config.channels == 1:
        said.append(f"{found.images - grey:,} lose their colours: data.channels is 1")
    if found.duplicates:
        extra = sum(len(group) - 1 for group in found.duplicates)
        said.append(f"{extra:,} more are kept of images that are there already")
    return said or [f"all are taken as they are, {height}x{width}"]


def _deep(values: tuple[float, float], config: DataConfig) -> str:
    low, high = config.value_range or (0, 65535)
    text = f"values of more than 8 bits are scaled so that {low:g} is black and {high:g} is white"
    if values[0] < low or values[1] > high:
        text += f"; those beyond are clipped (they go from {values[0]:g} to {values[1]:g})"
    if values[1] - values[0] < (high - low) / 4 or values[0] < low or values[1] > high:
        text += f": data.value_range=[{values[0]:g},{values[1]:g}] would keep their range"
    return text
