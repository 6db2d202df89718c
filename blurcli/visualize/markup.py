"""Pieces of a self-contained HTML page: escaped text, tables, and pictures as data URIs."""

from __future__ import annotations

import base64
import html
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from blurcli.base.errors import one_line

_REORDERING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # characters that reorder letters
_NARROW_IN = 4.2  # width of a plot on a narrow screen: its text is as large as the page's
_NARROW_PX = 700
_MOST_SVG_BYTES, _PLOT_COLORS = 80_000, 64
_LOSSY_QUALITIES = (92, 80, 65)
_CELL, _FACT = 100, 500  # letters of a value


@dataclass(frozen=True)
class Missing:
    """A missing part of a page.

    Attributes:
        reason: the reason, and how to get the part.
    """

    reason: str


Part = str | Missing
"""HTML, or the reason why a part is missing."""


@dataclass(frozen=True)
class Encoded:
    """A picture as a file in memory.

    Attributes:
        content: the file.
        kind: its MIME type.
        width: in pixels.
        height: in pixels.
        lossy: whether colors differ from the original.
    """

    content: bytes
    kind: str
    width: int
    height: int
    lossy: bool = False

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return _data_uri(self.content, self.kind)


def text(value: object, most: int = 4000) -> str:
    """A text for HTML, also within attributes, of at most `most` letters: names of runs and classes can hold anything."""
    plain = str(value)
    plain = one_line(plain if len(plain) <= most else f"{plain[:most]}...").encode(errors="backslashreplace").decode()
    return html.escape(_REORDERING.sub(lambda found: f"\\u{ord(found[0]):04x}", plain))


def paragraph(value: object, kind: str = "") -> str:
    """A paragraph of text, with an optional CSS class."""
    return f"<p{_class(kind)}>{text(value)}</p>"


def code(lines: Iterable[str]) -> str:
    """Lines of a command or a file, which wrap at the edge of the screen."""
    return "<pre><code>" + "\n".join(map(text, lines)) + "</code></pre>"


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values, without empty values."""
    return (
        "<dl>"
        + "".join(f"<div><dt>{text(name)}</dt><dd>{text(value, _FACT)}</dd></div>" for name, value in pairs if value)
        + "</dl>"
    )


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways if it is too wide."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{text(value, _CELL)}</td>" for value in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(title)}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def details(title: str, body: str) -> str:
    """A collapsed part, shown on demand."""
    return f"<details><summary>{text(title)}</summary>{body}</details>"


def pixels(picture: Encoded, description: str, still: Encoded | None = None) -> str:
    """A picture, enlarged by the largest whole factor that fits.

    Args:
        picture: the picture.
        description: text for readers who do not see it.
        still: a still picture for readers who prefer no motion.
    """
    image = f'<img class="px w{picture.width}" src="{picture.uri}" width="{picture.width}" alt="{text(description)}">'
    if still is not None:
        image = f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{still.uri}">{image}</picture>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text(description)}">{image}</div>'


def pixel_rules(page: str, largest: int = 800, most: int = 4) -> str:
    """The style rules that enlarge the pictures of `pixels` in a page.

    Args:
        page: HTML.
        largest: largest enlarged width in pixels.
        most: largest enlargement.
    """
    rules = []
    for width in sorted({int(found) for found in re.findall(r'<img class="px w(\d+)"', page)}):
        rules.append(f".w{width}{{width:{width}px}}")
        rules += [
            f"@media(min-width:{width * scale + 34}px){{.w{width}{{width:{width * scale}px}}}}"
            for scale in range(2, most + 1)
            if width * scale <= largest
        ]
    return "\n".join(rules)


def plot(save: Callable[..., None], title: str) -> str:
    """A plot in two forms, for wide and for narrow screens.

    Args:
        save: `save(path)` or `save(path, width=inches)` writes it.
        title: its title.
    """
    wide, narrow = (_drawn(form) for form in (save, partial(save, width=_NARROW_IN)))
    return (
        f'<figure class="plot"><picture><source media="(max-width: {_NARROW_PX}px)" srcset="{narrow}">'
        f'<img src="{wide}" alt="{text(title)}"></picture><figcaption>{text(title)}</figcaption></figure>'
    )


def _drawn(save: Callable[[Path], None]) -> str:
    """The data URI of a plot: as SVG or, if that is smaller, as PNG of few colors."""
    content, kind = written(save, ".svg"), "image/svg+xml"
    if len(content) > _MOST_SVG_BYTES:
        with Image.open(io.BytesIO(written(save, ".png"))) as drawn:
            content, kind = _saved(drawn.convert("RGB").quantize(_PLOT_COLORS), "PNG", optimize=True), "image/png"
    return _data_uri(content, kind)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def written(write: Callable[[Path], None], suffix: str) -> bytes:
    """The content of a file that `write(path)` writes."""
    with tempfile.TemporaryDirectory(prefix="blurdiff-") as folder:
        path = Path(folder) / f"file{suffix}"
        write(path)
        return path.read_bytes()


def encode(image: Image.Image, most: int) -> Encoded:
    """A picture in about `most` bytes at most: lossless if that fits, else lossy, else also smaller."""
    content = _saved(image, "WEBP", lossless=True, quality=60, method=3)
    if len(content) <= most:
        return Encoded(content, "image/webp", *image.size)
    while True:
        for quality in _LOSSY_QUALITIES:
            content = _saved(image, "JPEG", quality=quality, subsampling=0)
            if len(content) <= most or min(image.size) < 16:
                return Encoded(content, "image/jpeg", *image.size, lossy=True)
        image = image.reduce(2)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
