"""Tables of text as CSV, Markdown or LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

FORMATS = ("csv", "markdown", "latex")
"""The formats of `write_table`."""

_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": r"$<$",
        ">": r"$>$",
    }
)


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]], form: str) -> str:
    """A table as text that ends with a line break.

    Args:
        columns: their titles.
        rows: a text per column. Those that are numbers in all rows are aligned to the right, except in CSV.
        form: one of `FORMATS`. LaTeX is a `tabular` without packages.
    """
    lines = [list(row) for row in rows]
    if form == "csv":
        content = io.StringIO()
        csv.writer(content, lineterminator="\n").writerows([columns, *lines])
        return content.getvalue()
    right = [bool(lines) and all(_is_numeric(line[i]) for line in lines) for i in range(len(columns))]
    if form == "markdown":
        shown = [[_on_one_line(cell).replace("|", "\\|") for cell in line] for line in (columns, *lines)]
        shown.insert(1, ["---:" if aligned else "---" for aligned in right])
        return "".join(f"| {' | '.join(line)} |\n" for line in shown)
    head, *body = (" & ".join(_latex(cell) for cell in line) + r" \\" for line in (columns, *lines))
    kinds = "".join("r" if aligned else "l" for aligned in right)
    return "\n".join([rf"\begin{{tabular}}{{{kinds}}}", r"\hline", head, r"\hline", *body, r"\hline", r"\end{tabular}", ""])


def _latex(text: str) -> str:
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", _on_one_line(text).translate(_LATEX))  # the sign of a number


def _is_numeric(text: str) -> bool:
    first = text.replace(",", "").split(" ")[0]
    try:
        float(first or "0")
    except ValueError:
        return False
    return True


def _on_one_line(text: str) -> str:
    return " ".join(text.split())
