"""What the README says is so."""

import re
from pathlib import Path

import pytest

from blurcli.config import preset_names

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "blurcli" / "bundled" / "README.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short, parts = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(short, names)
    assert names["images"].shape == (64, 32, 32, 3)
    assert (tmp_path / "grid.png").exists()
    exec(parts, names)
    assert names["images"].shape == (4, 3, 32, 32)


def test_the_table_has_every_preset() -> None:
    section = README.split("## Presets")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`([\w-]+)`", row)) == preset_names()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_linked_files_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            name, _, anchor = target.partition("#")
            page = path.parent / name if name else path
            assert page.is_file(), target
            assert not anchor or anchor in anchors(page), target
