"""What the README says is so."""

import re
from pathlib import Path

from blurcli.config import preset_names

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(example, names)
    assert names["images"].shape == (4, 3, 32, 32)


def test_the_table_has_every_preset() -> None:
    section = README.split("## Presets")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == preset_names()


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (Path(__file__).parent.parent / target).is_file(), target
