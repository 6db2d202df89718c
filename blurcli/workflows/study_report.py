"""The tables and plots of a study, from its recorded scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base import files
from blurcli.base.tables import write_table
from blurcli.workflows.study_plan import Plan
from blurcli.workflows.study_tasks import EQUAL_TIME

if TYPE_CHECKING:
    from blurcli.evaluate.paired import Spread

Row = dict[str, Any]

_PLOTS, _PLOT_SUFFIXES = ("scores", "training"), (".png", ".svg")


@dataclass(frozen=True)
class Column:
    """A metric of one of a study's scores.

    Attributes:
        number: of the score.
        metric: its name.
        title: its title.
        ranks: whether it is the score's main metric, for which differences and plots are made.
        note: how it is measured.
    """

    number: int
    metric: str
    title: str
    ranks: bool
    note: str


@dataclass(frozen=True)
class Report:
    """The scores of a study, summarized.

    Attributes:
        plan: the study.
        rows: `Plan.rows`.
        columns: the metrics that are known.
    """

    plan: Plan
    rows: list[Row]
    columns: list[Column]

    def points(self) -> list[tuple[str, str]]:
        """The lengths and variants that have scores, in order."""
        found = dict.fromkeys((row["at"], row["variant"]) for row in self.rows)
        return list(found)

    def spread(self, at: str, variant: str, column: Column) -> Spread | None:
        """A metric over the seeds; None without scores."""
        from blurcli.evaluate import is_number
        from blurcli.evaluate.paired import Spread

        own = (row for row in self.rows if (row["at"], row["variant"], row["score"]) == (at, variant, column.number))
        values = {row["seed"]: float(row[column.metric]) for row in own if is_number(row.get(column.metric))}
        return Spread(values) if values else None

    def difference(self, at: str, variant: str, column: Column) -> Spread | None:
        """The paired differences of a metric to the base; None for the base itself, or without pairs."""
        own, base = (self.spread(at, name, column) for name in (variant, self.plan.study.base))
        return None if own is None or base is None or variant == self.plan.study.base else own.less(base)

    def summary(self) -> list[Row]:
        """One dictionary per length, variant and metric: mean, standard deviation, and the difference to the base.

        `half_width` and `difference_half_width` are half the widths of 95% intervals; None for one seed.
        """
        rows = []
        for at, variant in self.points():
            for column in self.columns:
                found = self.spread(at, variant, column)
                if found is None:
                    continue
                less = self.difference(at, variant, column)
                rows.append(
                    {
                        "at": at,
                        "variant": variant,
                        "score": column.title,
                        "metric": column.metric,
                        "seeds": len(found.values),
                        "mean": found.mean,
                        "std": found.std,
                        "half_width": found.half_width,
                        "difference": None if less is None else less.mean,
                        "difference_half_width": None if less is None else less.half_width,
                        "pairs": None if less is None else len(less.values),
                    }
                )
        return rows

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The columns and rows of the table for people."""
        base, several = self.plan.study.base, len({at for at, _ in self.points()}) > 1
        calls = {point: self._calls(*point) for point in self.points()}
        differ = len(set(calls.values())) > 1
        titles = (
            ["training images" if self.plan.study.by_images else "training steps"] * several
            + ["variant", "seeds"]
            + ["calls"] * differ
        )
        for column in self.columns:
            titles += [column.title] + [f"{column.title} less {base}"] * (column.ranks and len(self.plan.study.variants) > 1)
        rows = []
        for at, variant in self.points():
            spreads = [self.spread(at, variant, column) for column in self.columns]
            counts = sorted({len(one.values) for one in spreads if one is not None})
            cells = [self._length(at, variant)] * several + [variant, " to ".join(map(str, counts[:: max(1, len(counts) - 1)]))]
            cells += [calls[at, variant]] * differ
            for column, own in zip(self.columns, spreads, strict=True):
                cells.append("" if own is None else own.text)
                if column.ranks and len(self.plan.study.variants) > 1:
                    less = self.difference(at, variant, column)
                    cells.append("" if less is None else less.difference_text)
            rows.append(cells)
        return titles, rows

    def caption(self) -> list[str]:
        """What the numbers are."""
        several = len(self.plan.study.seeds) > 1
        meaning = "mean" + " ± standard deviation over the seeds" * several
        compared = ""
        if len(self.plan.study.variants) > 1:
            compared = "; differences: mean of paired seeds" + " ± half of the 95% interval (Student's t)" * several
        lines = [f"{meaning}{compared}."]
        lines += [f"{column.title}: {column.note}." for column in self.columns if column.note]
        total, known = len(self.plan.cells), len(self.rows)
        if known < total:
            lines.append(f"{total - known} of {total} scores are missing.")
        return lines + [f"Failed: {one}" for one in self.plan.failures()]

    def write(self) -> list[Path]:
        """Write table.md, table.csv, table.tex and scores.csv, and plots as PNG and SVG; returns the files."""
        titles, rows = self.table()
        caption = [" ".join(line.split()) for line in self.caption()]
        for name in _PLOTS:  # those of an earlier file may have no successor
            for suffix in _PLOT_SUFFIXES:
                (self.plan.folder / f"{name}{suffix}").unlink(missing_ok=True)
        texts = {
            "table.md": write_table(titles, rows, "markdown") + "".join(f"\n{line}\n" for line in caption),
            "table.tex": "".join(f"% {line}\n" for line in caption) + write_table(titles, rows, "latex"),
            "table.csv": _csv(self.summary()),
            "scores.csv": _csv([self._flat(row) for row in self.rows]),
        }
        paths = []
        for name, text in texts.items():
            paths.append(self.plan.folder / name)
            with files.replacing(paths[-1]) as temporary:
                temporary.write_text(text, encoding="utf-8")
        for name, save in self._plots():
            for suffix in _PLOT_SUFFIXES:
                paths.append(self.plan.folder / (name + suffix))
                save(paths[-1])
        return paths

    def _flat(self, row: Row) -> Row:
        from blurcli.evaluate import SAMPLING, TITLES

        keys = ("variant", "seed", "at", "train_steps", "score", "features", "n", *SAMPLING, *TITLES, "seconds", "run")
        return {key: row.get(key) for key in dict.fromkeys(keys)} | {"score": self._title(row["score"])}

    def _title(self, number: int) -> str:
        return next((column.title for column in self.columns if column.number == number), str(number))

    def _calls(self, at: str, variant: str) -> str:
        """The network calls per sample; several where scores differ in them."""
        from blurcli.evaluate import network_calls

        own = (row for row in self.rows if (row["at"], row["variant"]) == (at, variant) and "sampler" in row)
        return ", ".join(dict.fromkeys(str(network_calls(row)) for row in own))

    def _length(self, at: str, variant: str) -> str:
        if at != EQUAL_TIME:
            return f"{int(at):,}"
        steps = {row["train_steps"] for row in self.rows if (row["at"], row["variant"]) == (at, variant)}
        return f"{EQUAL_TIME} ({', '.join(f'{one:,}' for one in sorted(steps))})"

    def _plots(self) -> Iterator[tuple[str, Callable[[Path], None]]]:
        from blurcli.visualize import plots

        ranking = [column for column in self.columns if column.ranks]
        ats = list(dict.fromkeys(at for at, _ in self.points()))
        if not ranking:
            return
        last = next((at for at in reversed(ats) if at != EQUAL_TIME), ats[-1])
        panels: dict[str, dict[str, tuple[list[float], float | None]]] = {}
        for column in ranking:
            for title, of in ((column.title, self.spread), (f"{column.title} less {self.plan.study.base}", self.difference)):
                found = {variant: of(last, variant, column) for at, variant in self.points() if at == last}
                known = {name: ([*own.values.values()], own.half_width) for name, own in found.items() if own is not None}
                panels |= {title: known} if known else {}
        yield _PLOTS[0], partial(plots.save_variants, panels)
        lengths = [at for at in ats if at != EQUAL_TIME]
        if len(lengths) > 1:
            curves: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
            for column in ranking:
                lines = curves.setdefault(column.title, {})
                for at, variant in self.points():
                    own = self.spread(at, variant, column) if at in lengths else None
                    if own is not None:
                        lines.setdefault(variant, []).append((int(at), own.mean, own.half_width or 0.0))
            unit = "training images" if self.plan.study.by_images else "training steps"
            yield _PLOTS[1], partial(plots.save_variant_curves, curves, unit)


def report_of(plan: Plan) -> Report:
    """The report of what is recorded."""
    rows = plan.rows()
    columns: list[Column] = []
    for number, score in enumerate(plan.study.scores):
        own = [row for row in rows if row["score"] == number]
        if own:
            columns += _columns(number, score.name, score.metrics, own)
    titles = [column.title for column in columns]
    unique = [
        column if titles.count(column.title) == 1 else _numbered(column, titles[: i + 1].count(column.title))
        for i, column in enumerate(columns)
    ]
    return Report(plan, rows, unique)


def _numbered(column: Column, number: int) -> Column:
    from dataclasses import replace

    return replace(column, title=f"{column.title} ({number})")


def _columns(number: int, name: str | None, metrics: tuple[str, ...] | None, rows: list[Row]) -> list[Column]:
    from blurcli.evaluate import TITLES, is_number
    from blurcli.evaluate.metrics import RANKING

    ranking = next(one.name for one in RANKING if is_number(rows[0].get(one.name)))
    ranking = ranking if metrics is None or ranking in metrics else metrics[0]
    columns = []
    for metric in metrics or (ranking,):
        title = TITLES[metric] if name is None else name if metric == ranking else f"{TITLES[metric]} ({name})"
        note = _note(rows) if metric == (metrics or (ranking,))[0] else ""
        columns.append(Column(number, metric, title, metric == ranking, note))
    return columns


def _note(rows: list[Row]) -> str:
    """How a score is measured: what all its rows share."""
    from blurcli.evaluate import sampling_title

    first = rows[0]
    parts = [f"{first['n']:,} {'images' if 'bits_per_dim' in first else 'samples'}"]
    if first.get("features"):
        parts.insert(0, f"in {first['features']}")
    titles = {(sampling_title(row), row.get("steps")) for row in rows} if "bits_per_dim" not in first else set()
    if len(titles) == 1:
        title, steps = titles.pop()
        parts.append(f"{title}, {steps} steps")
    reference, split = Path(str(first.get("reference"))).name, str(first.get("split"))
    return ", ".join((*parts, f"reference {reference}" + ("" if reference.endswith(split) else f" {split}")))


def _csv(rows: list[Row]) -> str:
    """Dictionaries with the same keys as CSV; keys without any value are left out."""
    keys = [key for key in (rows[0] if rows else {}) if any(row[key] is not None for row in rows)]
    return write_table(keys, [["" if row[key] is None else str(row[key]) for key in keys] for row in rows], "csv")
