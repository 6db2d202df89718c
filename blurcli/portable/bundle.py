"""Write a module and all modules of blurcli that it imports into one file.

The modules follow each other, imported ones first, without their imports of each other. Nothing else is changed, so the file is
the code that runs here. Names at the top level of these modules must therefore be unique.
"""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader
from importlib.util import find_spec
from typing import cast

from blurcli.base.version import __version__

_PACKAGE = "blurcli"

_HEAD = '''"""Part of a model that blurdiff {version} has exported for diffusers; needs nothing else of blurdiff.

Modules of blurdiff that follow:
{modules}
"""

# SPDX-License-Identifier: MIT
# ruff: noqa

from __future__ import annotations

import sys
from pathlib import Path

# For every pipeline that it loads, diffusers executes this file again in the module of this name, which would replace the
# classes of earlier pipelines. Under its own name, a module stays unchanged.
_module = sys.modules.pop(__name__)
__name__ = f"{{__name__}}_{{id(_module):x}}"
sys.modules[__name__] = _module

SOURCE = Path(__file__).read_text(encoding="utf-8")
'''


class NotPortableError(Exception):
    """A module cannot be written into one file with others; the text names it and the reason."""


def bundle(module: str) -> str:
    """The source of a module, such as `blurcli.core.unet`, with all modules of blurcli that it imports.

    It defines `SOURCE`, its own text.

    Raises:
        NotPortableError: a source is missing, an import has a form that cannot be removed, or two modules share a name.
    """
    parts: dict[str, _Module] = {}
    _visit(module, parts)
    _check_names(parts)
    head = _HEAD.format(version=__version__, modules="\n".join(f"- {name}" for name in parts))
    sections = (f"# ---- {name} ----\n\n{part.without_own_imports()}\n" for name, part in parts.items())
    text = "\n\n".join([head, *sections])
    compile(text, f"<{module}>", "exec")
    return text


def read_source(name: str) -> tuple[str, Sequence[str] | None]:
    """The source of a module, and for a package its folder.

    Raises:
        NotPortableError: it is missing, because only compiled files are installed.
    """
    spec = find_spec(name)
    source = None if spec is None else cast(InspectLoader, spec.loader).get_source(name)
    if spec is None or source is None:
        raise NotPortableError(f"{name}: its source is missing")
    return source, spec.submodule_search_locations


@dataclass(frozen=True)
class _Module:
    """A module of blurcli: its source, and for a package its folder."""

    name: str
    source: str
    tree: ast.Module
    folder: Sequence[str] | None

    @classmethod
    def read(cls, name: str) -> _Module:
        source, folder = read_source(name)
        return cls(name, source, ast.parse(source), folder)

    def imported(self) -> Iterator[str]:
        """Names of the modules of blurcli that it imports, in functions or at the top level, but not for type checkers."""
        for node in _own_imports(self.tree):
            if isinstance(node, ast.Import) or any(alias.asname for alias in node.names):
                raise NotPortableError(f"{self.name}, line {node.lineno}: write `from {_PACKAGE}.x import name`")
            assert node.module is not None
            yield node.module
        if self.folder and any(isinstance(node, ast.For) for node in self.tree.body):
            # A package that imports all files of its folder, such as core.samplers.
            yield from (f"{self.name}.{file.name}" for file in pkgutil.iter_modules(self.folder))

    def names(self) -> Iterator[tuple[str, str]]:
        """Names at the top level, each with its origin: the module itself, or the module that it is imported from."""
        for node in self.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom) and not _is_own_import(node):
                source = node.module if isinstance(node, ast.ImportFrom) else ""
                yield from ((alias.asname or alias.name, f"{source}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name, self.name
            elif isinstance(node, ast.Assign | ast.AnnAssign) and not _is_all(node):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found = (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
                yield from ((name, self.name) for name in found)

    def without_own_imports(self) -> str:
        """Its source without imports of blurcli and the blocks around them."""
        lines = self.source.splitlines()
        for node in [*_walk(self.tree, type_checking=True)]:
            imports_folder = self.folder is not None and isinstance(node, ast.For) and node in self.tree.body
            is_future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
            if _is_own_import(node) or is_future or _is_all(node) or imports_folder or _is_type_checking(node):
                assert isinstance(node, ast.stmt)
                for number in range(node.lineno - 1, node.end_lineno or 0):
                    lines[number] = ""
        return re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)).strip()


def _visit(name: str, parts: dict[str, _Module], above: tuple[str, ...] = ()) -> None:
    if name in parts or name in above:
        return
    module = _Module.read(name)
    for other in module.imported():
        _visit(other, parts, (*above, name))
    parts[name] = module


def _check_names(parts: dict[str, _Module]) -> None:
    origins: dict[str, str] = {}
    for module in parts.values():
        own = dict(module.names())
        for name, origin in own.items():
            if origins.setdefault(name, origin) != origin:
                raise NotPortableError(
                    f"{module.name}: {name} is already taken by {origins[name]}, and exported models have both in one file: "
                    "rename one"
                )
    for module in parts.values():
        for node in _own_imports(module.tree):
            missing = [alias.name for alias in node.names if alias.name not in origins]
            if missing:
                raise NotPortableError(f"{module.name}, line {node.lineno}: {missing[0]} is not defined in what it imports")


def _walk(tree: ast.AST, type_checking: bool = False) -> Iterator[ast.AST]:
    """All nodes below a node; blocks for type checkers as one node, or not at all."""
    for node in ast.iter_child_nodes(tree):
        if _is_type_checking(node):
            if type_checking:
                yield node
            continue
        yield node
        yield from _walk(node, type_checking)


def _own_imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in _walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and _is_own_import(node):
            yield node


def _is_own_import(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] == _PACKAGE
    return isinstance(node, ast.Import) and any(alias.name.split(".")[0] == _PACKAGE for alias in node.names)


def _is_all(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(name, ast.Name) and name.id == "__all__" for name in node.targets)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
