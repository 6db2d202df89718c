"""What the documents say is so."""

import ast
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import typer.main
from PIL import Image

import blurcli.core
from blurcli.cli import app
from blurcli.config import preset_names

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
    ROOT / "blurcli" / "bundled" / "README.md",
]
LINK = re.compile(r"\]\(([^)]+)\)")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), "gray").save("photo.jpg")
    (short,), (parts,) = (re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL) for page in (PAGES[0], DOCS / "core.md"))
    names: dict = {}
    exec(short, names)
    assert names["images"].shape == (64, 32, 32, 3)
    assert Image.open("grid.png").size > (8 * 32, 8 * 32)
    assert Image.open("restored.png").size == (32, 32)
    exec(parts, names)
    assert names["images"].shape == (4, 3, 32, 32)


def test_the_table_has_every_preset() -> None:
    section = text_of(DOCS / "presets.md").split("## All presets")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`([\w-]+)`", row)) == preset_names()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_parse(path: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    text = text_of(path).replace("\\\n", " ")
    in_blocks = re.findall(r"^ {4,}(blurdiff .*)", text, re.MULTILINE)
    for line in [*in_blocks, *re.findall(r"`(blurdiff [^`]*)`", text)]:
        _, name, *arguments = shlex.split(line, comments=True)
        if name == "COMMAND":
            continue
        flags = {flag for option in commands[name].params for flag in (*option.opts, *option.secondary_opts)}
        assert {word for word in arguments if word.startswith("-")} <= flags, line
        if line in in_blocks:  # others may have a placeholder for a value
            commands[name].make_context(name, arguments)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_linked_files_exist(path: Path) -> None:
    for target in LINK.findall(text_of(path)):
        if not target.startswith("https://"):
            name, _, anchor = target.partition("#")
            page = path.parent / name if name else path
            assert page.is_file(), target
            assert not anchor or anchor in anchors(page), target


def test_every_document_is_in_the_index_and_in_the_site() -> None:
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"index.md"}
    assert pages <= set(LINK.findall(text_of(DOCS / "index.md")))
    assert pages <= set(re.findall(r"[\w/-]+\.md", text_of(ROOT / "mkdocs.yml")))


@pytest.mark.parametrize("module", [blurcli, blurcli.core], ids=["blurcli", "core"])
def test_the_reference_has_every_public_name(module: ModuleType) -> None:
    page = DOCS / "api" / f"{module.__name__.rpartition('.')[2]}.md"
    listed = re.findall(r"^::: (\S+)$", text_of(page), re.MULTILINE)
    assert {f"{module.__name__}.{name}" for name in module.__all__} <= set(listed)
    for name in listed:
        pkgutil.resolve_name(name)


def test_the_front_page_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 200


@pytest.mark.parametrize("script", sorted(DOCS.glob("*.py")), ids=lambda path: path.stem)
def test_the_scripts_of_the_documents_import_what_there_is(script: Path) -> None:
    """Every name that a script imports from the package."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("blurcli"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                assert hasattr(module, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}"), (script, name.name)
