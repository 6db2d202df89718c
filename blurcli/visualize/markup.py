"""Self-contained pages from templates: escaped text, and pictures as data URIs."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup, escape
from PIL import Image

from blurcli.base.errors import one_line

_REORDERING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # characters that reorder letters
_NARROW_IN = 4.2  # width of a plot on a narrow screen: its text is as large as the page's
_MOST_SVG_BYTES, _PLOT_COLORS = 80_000, 64
_LOSSY_QUALITIES = (92, 80, 65)


class Part(NamedTuple):
    """A part of a page.

    Attributes:
        form: one of those that `show` in report.html knows; "missing" for a missing part.
        content: plain data; of a missing part the reason, and how to get the part.
    """

    form: str
    content: Any


@dataclass(frozen=True)
class Picture:
    """A picture of pixels, as a file in memory; a page enlarges it by the largest whole factor that fits.

    Attributes:
        content: the file.
        kind: its MIME type.
        width: in pixels.
        lossy: whether colors differ from the original.
        description: text for readers who do not see it.
        caption: text above it.
        still: a still picture for readers who prefer no motion.
    """

    content: bytes
    kind: str
    width: int
    lossy: bool = False
    description: str = ""
    caption: str = ""
    still: Picture | None = None

    @property
    def uri(self) -> Markup:
        """The picture as a data URI."""
        return _data_uri(self.content, self.kind)


def render(template: str, **values: object) -> str:
    """The text of a template with these values, which are escaped in HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    page = template.endswith(".html")
    environment = Environment(
        loader=PackageLoader("blurcli.visualize"),
        autoescape=page,
        finalize=text if page else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": text, "cell": _cell}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template(template).render(values)


def text(value: object, most: int = 4000) -> Markup:
    """A text for HTML, also within attributes, of at most `most` letters: names of runs and classes can hold anything."""
    if isinstance(value, Markup):
        return value
    plain = str(value)
    plain = one_line(plain if len(plain) <= most else f"{plain[:most]}...").encode(errors="backslashreplace").decode()
    return escape(_REORDERING.sub(lambda found: f"\\u{ord(found[0]):04x}", plain))


def _cell(value: object) -> str:
    """A text for a cell of a table in Markdown."""
    return re.sub(r"\s+", " ", str(value).encode(errors="replace").decode()).replace("|", "\\|").replace("<", "&lt;")


def plot(save: Callable[..., None], title: str) -> dict[str, object]:
    """A plot in two forms, for wide and for narrow screens.

    Args:
        save: `save(path)` or `save(path, width=inches)` writes it.
        title: its title.
    """
    return {"title": title, "wide": _drawn(save), "narrow": _drawn(partial(save, width=_NARROW_IN))}


def _drawn(save: Callable[[Path], None]) -> Markup:
    """The data URI of a plot: as SVG or, if that is smaller, as PNG of few colors."""
    content = written(save, ".svg")
    if len(content) <= _MOST_SVG_BYTES:
        return _data_uri(content, "image/svg+xml")
    with Image.open(io.BytesIO(written(save, ".png"))) as drawn:
        return _data_uri(_saved(drawn.convert("RGB").quantize(_PLOT_COLORS), "PNG", optimize=True), "image/png")


def _data_uri(content: bytes, kind: str) -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")


def written(write: Callable[[Path], None], suffix: str) -> bytes:
    """The content of a file that `write(path)` writes."""
    with tempfile.TemporaryDirectory(prefix="blurdiff-") as folder:
        path = Path(folder) / f"file{suffix}"
        write(path)
        return path.read_bytes()


def encode(image: Image.Image, most: int, description: str = "", caption: str = "") -> Picture:
    """A picture in about `most` bytes at most: lossless if that fits, else lossy, else also smaller."""
    content = _saved(image, "WEBP", lossless=True, quality=60, method=3)
    if len(content) <= most:
        return Picture(content, "image/webp", image.width, False, description, caption)
    while True:
        for quality in _LOSSY_QUALITIES:
            content = _saved(image, "JPEG", quality=quality, subsampling=0)
            if len(content) <= most or min(image.size) < 16:
                return Picture(content, "image/jpeg", image.width, True, description, caption)
        image = image.reduce(2)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()
