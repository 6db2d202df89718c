"""What the site needs besides mkdocs.yml: a hook of mkdocs, and an extension of its reader of docstrings.

The hook adds pages for the linked files that are not documents in docs/. In the repository the links are relative paths.
In the site they lead to pages in `source/`, which show code, and in `repository/`, for documents outside docs/.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"(?<=\]\()(?!https?://|#)([^)#\s]+)")
_LANGUAGES = {".py": "python", ".slurm": "bash", ".yaml": "yaml"}

_origins: dict[str, str] = {}
"""Path in the repository by path in the site, of every page."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    _origins.clear()
    _origins.update({file.src_uri: f"docs/{file.src_uri}" for file in files.documentation_pages()})
    waiting = list(_origins.values())
    for path in waiting:
        place = _place(path)
        if place not in _origins:
            _origins[place] = path
            files.append(File.generated(config, place, content=_content(path)))
        if path.endswith(".md"):
            text = (ROOT / path).read_text(encoding="utf-8")
            linked = [_resolved(path, target) for target in _LINK.findall(text)]
            waiting += [other for other in linked if f"docs/{_place(other)}" != other and other not in waiting]
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let the links of a page lead to the places of their targets in the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(here) or "."
    return _LINK.sub(lambda link: posixpath.relpath(_place(_resolved(_origins[here], link[1])), folder), markdown)


def _resolved(path: str, target: str) -> str:
    """The file of the repository that a relative link in the document `path` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def _place(path: str) -> str:
    """The path in the site of a file of the repository."""
    if posixpath.splitext(path)[1] in _LANGUAGES:
        return f"source/{path}.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def _content(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    language = _LANGUAGES.get(posixpath.splitext(path)[1])
    if language is None:
        return text
    return f"---\nsearch:\n  exclude: true\n---\n\n# {posixpath.basename(path)}\n\n`{path}`\n\n````{language}\n{text}````\n"


class Keys(griffe.Extension):
    """Reads the section `Keys` of a TypedDict as a list of attributes."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Rename the section."""
        if cls.docstring is not None:
            cls.docstring.value = cls.docstring.value.replace("\nKeys:\n", "\nAttributes:\n")
