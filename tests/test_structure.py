"""The shape of the code: imports point down, files and signatures stay small, and only families know one process from another."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from mutants import MUTANTS, ROOT, Mutant

PACKAGE = ROOT / "blurcli"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the top down; a room imports only from rooms below it.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"api"},
    {"portable"},
    {"workflows"},
    {"hub"},
    {"visualize"},
    {"training"},
    {"evaluate"},
    {"importing"},
    {"model"},
    {"families"},
    {"data"},
    {"config"},
    {"trackers"},
    {"core"},
    {"bundled"},
    {"base"},
]
MAX_LINES = 400
MAX_PARAMETERS = 7
LONG_SIGNATURES = {("sampling.py", "sample"), ("pipeline.py", "generate")}  # of options that are named in every call


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[str]:
    """The rooms of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"blurcli.{alias.name}" for alias in node.names] if node.module == "blurcli" else [node.module or ""]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "blurcli" and len(parts) > 1 and not parts[1].startswith("__"):
                yield parts[1]


@pytest.mark.parametrize("path", [p for p in FILES if p != PACKAGE / "__init__.py"], ids=name_of)
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    for other in imported_rooms(path):
        assert other == room or floor_of(other) >= floor_of(room), f"{name_of(path)} imports {other}, which is above it"
        assert room != "core" or other == "core", f"{name_of(path)} imports {other}, which is outside core"


def imported_files(path: Path) -> Iterator[Path]:
    """The files of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("blurcli"):
            continue
        module = ROOT / str(node.module).replace(".", "/")
        for alias in node.names:
            inner, file = module / alias.name, module.with_suffix(".py")
            candidates = (inner.with_suffix(".py"), inner / "__init__.py", file, module / "__init__.py")
            yield next(candidate for candidate in candidates if candidate.is_file())


def test_imports_have_no_circles() -> None:
    TopologicalSorter({path: set(imported_files(path)) for path in FILES}).prepare()


def test_public_methods_have_docstrings_of_their_own_or_inherited_ones() -> None:
    classes = {
        node.name: node
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }

    def documented(name: str) -> set[str]:
        node = classes.get(name)
        if node is None:
            return set()
        own = {f.name for f in node.body if isinstance(f, ast.FunctionDef) and ast.get_docstring(f)}
        return own.union(*(documented(base.id) for base in node.bases if isinstance(base, ast.Name)))

    public = {
        f"{name}.{f.name}": f.name in documented(name)
        for name, node in classes.items()
        if not name.startswith("_")
        for f in node.body
        if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")
    }
    assert not [name for name, has_docstring in public.items() if not has_docstring]


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in FILES} - {"__init__"} == set().union(*FLOORS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_signatures_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    if room_of(path) in ("cli", "portable"):  # where every option is a parameter
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and (path.name, node.name) not in LONG_SIGNATURES:
            own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([argument for argument in own if argument.arg not in ("self", "cls")])
            assert count <= MAX_PARAMETERS, f"{path.name}: {node.name} takes {count} parameters"


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) not in ("families", "core", "config")], ids=name_of)
def test_only_families_know_one_process_from_another(path: Path) -> None:
    names = re.compile(r'HeatDissipation|HeatConfig|DiffusionConfig|"heat"|"residual"|kind ==')
    found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if names.search(line)]
    assert not found


def test_presets_and_registries_need_no_torch() -> None:
    code = (
        "import sys, blurcli.config, blurcli.core.samplers, blurcli.core.objectives, blurcli.core.weighting, blurcli.cli; "
        "blurcli.config.load_config('shapes-heat'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_deliberate_faults_still_fit_the_code(mutant: Mutant) -> None:
    assert (ROOT / "blurcli" / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert (ROOT / mutant.tests.split("::")[0].split()[0]).is_file()
