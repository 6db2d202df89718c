"""A film as one HTML file to be scrubbed through, with its power spectra: no network, no library."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from blurcli import files
from blurcli.film import Part, Shot, spectra
from blurcli.render.grids import Images, picture, tile


def save_page(
    parts: Sequence[Part], path: Path, title: str, fps: float, hold_sec: float, loop: int, columns: int | None = None
) -> None:
    """Write a page that shows one moment of a film at a time, and plays it.

    Args:
        parts: the directions, all of the same subjects.
        path: .html.
        title: of the page.
        fps: frames a second, when played.
        hold_sec: how long the last frame stays, in seconds.
        loop: how often it is played; 0 is endless.
        columns: of images in a shot; None for nearly square.
    """
    first = parts[0].shots[0]
    height, width = tile(first.frames[0], columns).shape[:2]
    film = {
        "width": width,
        "height": height,
        "fps": fps,
        "hold_ms": 1000 * hold_sec,
        "loop": loop,
        "wavelengths": [2 / (low + high) for low, high in spectra(first)[0]],
        "parts": [
            {
                "direction": part.direction,
                "times": part.times,
                "shots": [_shot(shot, part.times, columns) for shot in part.shots],
            }
            for part in parts
        ],
    }
    template = resources.files("blurcli.render").joinpath("page.html").read_text(encoding="utf-8")
    before, after = template.replace("{{title}}", html.escape(title)).split("{{film}}")
    with files.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as page:
        page.write(before)
        for piece in json.JSONEncoder(separators=(",", ":")).iterencode(film):
            page.write(piece.replace("<", "\\u003c"))  # which, in a title, could end the script that holds it
        page.write(after)


def _shot(shot: Shot, times: list[float], columns: int | None) -> dict[str, Any]:
    t = torch.tensor(times, dtype=torch.float64)
    return {
        "title": shot.title,
        "logsnr": shot.process.logsnr(t).tolist(),
        "blur": shot.process.blur_sigma(t).tolist(),
        "spectrum": [[float(f"{value:.3g}") for value in row] for row in spectra(shot)[1]],
        "images": [_data_uri(frame, columns) for frame in shot.frames],
    }


def _data_uri(images: Images, columns: int | None) -> str:
    content = io.BytesIO()
    picture(tile(images, columns)).save(content, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
