"""Frames of a trajectory as pictures, with titles and labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blurcli.visualize.grids import picture, tile
from blurcli.visualize.trajectories import Trajectory

_GAP_PX = 8  # between panels
_MOST_HEIGHTS = 2  # largest ratio of height to the wanted width, for tall images
_TEXT_PX = 14
_LINE_PX = 20
_WHITE, _GREY = 255, 160


def frame_pictures(
    trajectories: Sequence[Trajectory], scale: int, columns: int | None = None, labels: bool = False
) -> list[Image.Image]:
    """One picture per frame, all of one size: the panels side by side, with titles if there are several.

    Args:
        trajectories: the directions in order, all with the same panels.
        scale: enlargement by whole pixels.
        columns: images per row of a panel; None for nearly square.
        labels: whether to write time, log-SNR and blur below.
    """
    panels = []
    for directions in zip(*(trajectory.panels for trajectory in trajectories), strict=True):
        above = [(directions[0].title, _WHITE)] if len(trajectories[0].panels) > 1 else []
        cells = [
            _captioned(picture(tile(frame, columns), scale), above, [(label, _GREY)] if labels else [])
            for panel in directions
            for frame, label in zip(panel.frames, panel.labels, strict=True)
        ]
        panels.append(_equally_wide(cells))
    return [_beside(cells) for cells in zip(*panels, strict=True)]


def film_strip(trajectories: Sequence[Trajectory], scale: int, labels: bool = False) -> Image.Image:
    """All frames in one still picture: time from left to right, one row per image, the panels below each other."""
    rows = []
    for trajectory in trajectories:
        for panel in trajectory.panels:
            cells = [
                _captioned(
                    picture(tile(frame, columns=1), scale),
                    [],
                    [(line, _GREY) for line in label.split("  ")] if labels else [],
                )
                for frame, label in zip(panel.frames, panel.labels, strict=True)
            ]
            title = panel.title if len(trajectories) == 1 else f"{panel.title}, {trajectory.direction}"
            titled = len(trajectory.panels) * len(trajectories) > 1
            rows.append(_captioned(_beside(_equally_wide(cells), gap=scale), [(title, _WHITE)] if titled else [], []))
    canvas = Image.new(rows[0].mode, (max(row.width for row in rows), sum(row.height + _GAP_PX for row in rows) - _GAP_PX))
    top = 0
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height + _GAP_PX
    return canvas


def captioned(images: Sequence[Image.Image], captions: Sequence[str]) -> list[Image.Image]:
    """Pictures of one size and mode (RGB or L), each with a line of text below; all results have one size."""
    return _equally_wide([_captioned(image, [], [(text, _GREY)]) for image, text in zip(images, captions, strict=True)])


def default_scale(panels: int, size: tuple[int, int], width_px: int) -> int:
    """The enlargement at which panels side by side are about `width_px` pixels wide, and at most twice as high.

    Args:
        panels: number of panels.
        size: (height, width) of a panel without enlargement.
        width_px: in pixels.
    """
    height, width = size
    return max(1, min(width_px // (panels * width), _MOST_HEIGHTS * width_px // height))


def _captioned(image: Image.Image, above: Sequence[tuple[str, int]], below: Sequence[tuple[str, int]]) -> Image.Image:
    """The picture between lines of text, each with its gray level."""
    if not above and not below:
        return image
    font = ImageFont.load_default(_TEXT_PX)
    text_px = max(int(np.ceil(font.getlength(text))) for text, _ in (*above, *below))
    canvas = Image.new(image.mode, (max(image.width, text_px), image.height + _LINE_PX * (len(above) + len(below))))
    canvas.paste(image, (0, _LINE_PX * len(above)))
    draw = ImageDraw.Draw(canvas)
    tops = [*range(0, _LINE_PX * len(above), _LINE_PX), *range(canvas.height - _LINE_PX * len(below), canvas.height, _LINE_PX)]
    for top, (text, gray) in zip(tops, (*above, *below), strict=True):
        draw.text((0, top + 2), text, fill=gray if image.mode == "L" else (gray,) * 3, font=font)
    return canvas


def _beside(cells: Sequence[Image.Image], gap: int = _GAP_PX) -> Image.Image:
    if len(cells) == 1:
        return cells[0]
    canvas = Image.new(cells[0].mode, (sum(cell.width + gap for cell in cells) - gap, max(cell.height for cell in cells)))
    left = 0
    for cell in cells:
        canvas.paste(cell, (left, 0))
        left += cell.width + gap
    return canvas


def _equally_wide(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Images of one panel, padded with black on the right to the widest one: the width of labels changes with time."""
    width = max(image.width for image in images)
    return [image.crop((0, 0, width, image.height)) if image.width < width else image for image in images]
