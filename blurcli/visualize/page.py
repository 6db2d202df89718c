"""An animation as one interactive HTML file, with power spectra; it loads nothing from the network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from blurcli.base import files
from blurcli.data.images import Pixels
from blurcli.visualize.animations import Timing
from blurcli.visualize.grids import picture, tile
from blurcli.visualize.markup import render
from blurcli.visualize.trajectories import Panel, Trajectory, power_spectra


def save_page(trajectories: Sequence[Trajectory], path: Path, title: str, timing: Timing, columns: int | None = None) -> None:
    """Write a page with a time slider that also plays the animation.

    Args:
        trajectories: the directions, all with the same panels.
        path: .html.
        title: title of the page.
        timing: timing of playback.
        columns: images per row of a panel; None for nearly square.
    """
    first = trajectories[0].panels[0]
    height, width = tile(first.frames[0], columns).shape[:2]
    animation = {
        "width": width,
        "height": height,
        "fps": timing.fps,
        "hold_ms": 1000 * timing.hold_sec,
        "loop": timing.loop,
        "wavelengths": [2 / (low + high) for low, high in power_spectra(first)[0]],
        "trajectories": [
            {
                "direction": one.direction,
                "times": one.times,
                "panels": [_panel_data(panel, one.times, columns) for panel in one.panels],
            }
            for one in trajectories
        ],
    }
    with files.replacing(path) as temporary:
        temporary.write_text(render("page.html", title=title, animation=animation), encoding="utf-8")


def _panel_data(panel: Panel, times: Sequence[float], columns: int | None) -> dict[str, Any]:
    t = torch.tensor(times, dtype=torch.float64)
    return {
        "title": panel.title,
        "logsnr": panel.process.logsnr(t).tolist(),
        "labels": panel.labels,
        "spectrum": [[float(f"{value:.3g}") for value in row] for row in power_spectra(panel)[1]],
        "images": [_data_uri(frame, columns) for frame in panel.frames],
    }


def _data_uri(images: Pixels, columns: int | None) -> str:
    content = io.BytesIO()
    picture(tile(images, columns)).save(content, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
