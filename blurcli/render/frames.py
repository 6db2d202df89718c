"""Frames of a film as single pictures, with what they show written beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from blurcli.core.process import Process
from blurcli.film import Part, Shot
from blurcli.render.grids import picture, tile

_GAP = 8  # pixels between shots
_TEXT_PX = 14
_LINE_PX = 20
_WHITE, _GREY = 255, 160


def frame_pictures(part: Part, scale: int, columns: int | None = None, labels: bool = False) -> list[Image.Image]:
    """One picture a frame: the shots side by side, under their titles where there are several.

    Args:
        part: of one direction.
        scale: enlargement by whole pixels.
        columns: of images in a shot; None for nearly square.
        labels: write time, log-SNR and blur below.
    """
    titled = len(part.shots) > 1
    pictures = []
    for i, t in enumerate(part.times):
        cells = []
        for shot in part.shots:
            lines = ([(shot.title, _WHITE)] if titled else [], [(describe(shot.process, t), _GREY)] if labels else [])
            cells.append(_captioned(picture(tile(shot.frames[i], columns), scale), *lines))
        pictures.append(_beside(cells))
    # Text may be wider at some times than at others.
    width = max(frame.width for frame in pictures)
    return [_padded(frame, width) for frame in pictures]


def strip(parts: Sequence[Part], scale: int, labels: bool = False) -> Image.Image:
    """All frames in one still picture: time from left to right, a row an image, and one below the other all shots."""
    rows = []
    for part in parts:
        for shot in part.shots:
            cells = [
                _captioned(
                    picture(tile(frame, columns=1), scale),
                    [],
                    [(line, _GREY) for line in describe(shot.process, t).split("  ")] if labels else [],
                )
                for t, frame in zip(part.times, shot.frames, strict=True)
            ]
            title = shot.title if len(parts) == 1 else f"{shot.title}, {part.direction}"
            titled = len(part.shots) * len(parts) > 1
            rows.append(_captioned(_beside(cells, gap=scale), [(title, _WHITE)] if titled else [], []))
    canvas = Image.new(rows[0].mode, (max(row.width for row in rows), sum(row.height + _GAP for row in rows) - _GAP))
    top = 0
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height + _GAP
    return canvas


def describe(process: Process, t: float) -> str:
    """Time, log-SNR and blur, as people read them."""
    time = torch.tensor(t, dtype=torch.float64)
    return f"t {t:.2f}  log-SNR {float(process.logsnr(time)):+.1f}  blur {float(process.blur_sigma(time)):.1f} px"


def default_scale(shots: Sequence[Shot], columns: int | None, width: int) -> int:
    """The enlargement that makes shots side by side about `width` pixels wide."""
    unscaled = sum(int(tile(shot.frames[0], columns).shape[1]) for shot in shots)
    return max(1, width // unscaled)


def _captioned(image: Image.Image, above: Sequence[tuple[str, int]], below: Sequence[tuple[str, int]]) -> Image.Image:
    """The picture between lines of text, each with its shade of grey."""
    if not above and not below:
        return image
    font = ImageFont.load_default(_TEXT_PX)
    wanted = max(int(np.ceil(font.getlength(text))) for text, _ in (*above, *below))
    canvas = Image.new(image.mode, (max(image.width, wanted), image.height + _LINE_PX * (len(above) + len(below))))
    canvas.paste(image, (0, _LINE_PX * len(above)))
    draw = ImageDraw.Draw(canvas)
    tops = [*range(0, _LINE_PX * len(above), _LINE_PX), *range(canvas.height - _LINE_PX * len(below), canvas.height, _LINE_PX)]
    for top, (text, shade) in zip(tops, (*above, *below), strict=True):
        draw.text((0, top + 2), text, fill=shade if image.mode == "L" else (shade,) * 3, font=font)
    return canvas


def _beside(cells: Sequence[Image.Image], gap: int = _GAP) -> Image.Image:
    if len(cells) == 1:
        return cells[0]
    canvas = Image.new(cells[0].mode, (sum(cell.width + gap for cell in cells) - gap, max(cell.height for cell in cells)))
    left = 0
    for cell in cells:
        canvas.paste(cell, (left, 0))
        left += cell.width + gap
    return canvas


def _padded(image: Image.Image, width: int) -> Image.Image:
    if image.width == width:
        return image
    canvas = Image.new(image.mode, (width, image.height))
    canvas.paste(image)
    return canvas
