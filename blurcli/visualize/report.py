"""A report of a training as one self-contained HTML file: the model, its training, and its results."""

from __future__ import annotations

import base64
import hashlib
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from blurcli import evaluate
from blurcli.base import files
from blurcli.base.errors import UserError
from blurcli.base.pace import duration
from blurcli.base.runs import Run
from blurcli.config import FREE_KEYS, TEACHER_KEYS, Config, flatten, to_yaml, yaml_text
from blurcli.config.repeat import nearest_preset, without_folder
from blurcli.config.source_names import DATASET_NAMES
from blurcli.core.objectives import OBJECTIVES
from blurcli.data.images import Pixels
from blurcli.evaluate import is_number
from blurcli.visualize import markup
from blurcli.visualize.markup import Part
from blurcli.visualize.records import Plot, band_plots, loss_plots, score_plots
from blurcli.visualize.report_pictures import (
    OpenProgress,
    Subject,
    animation_part,
    error_part,
    grid_part,
    preview_part,
    samples_of,
    spectrum_part,
)

_MOST_PLOTS = 6  # of scores
_MOST_ROWS = 200  # of all tables of scores
_MOST_CLASSES = 20
_LONG_COMMAND = 100  # characters

_Section = tuple[str, str, list[Part]]  # anchor, title, content


def save_report(subject: Subject, path: Path, progress: OpenProgress, animated: bool = True) -> list[str]:
    """Write the report of a model.

    Args:
        subject: the model, and its run if there is one.
        path: .html.
        progress: see `OpenProgress`.
        animated: whether the reverse process is animated.

    Returns:
        A line per missing part.

    Raises:
        UserError: the file cannot be written.
    """
    sections = list(_sections(subject, progress, animated))
    parts = [part for _, _, parts in sections for part in parts]
    script = Markup(markup.render("report.js"))
    page = markup.render(
        "report.html",
        title=subject.name,
        subtitle=f"Report of blurdiff at step {subject.step:,}, {time.strftime('%Y-%m-%d')}",
        hash=Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        widths=sorted({one.width for form, content in parts if form in ("pictures", "strip") for one in content}),
        script=script,
        sections=sections,
    )
    with files.replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return [content for form, content in parts if form == "missing"]


def _sections(subject: Subject, progress: OpenProgress, animated: bool) -> Iterator[_Section]:
    run = subject.run
    images: Pixels | None
    yield ("training", "What was trained", [_facts(subject)])
    try:
        made = samples_of(subject, progress)
        images, grid = made, grid_part(subject, made)
    except UserError as error:
        images, grid = None, [Part("missing", f"No samples: {error}.")]
    yield ("samples", "Samples", grid)
    no_record = Part("missing", "A weights file has no record of its training; name the run folder instead.")
    yield ("previews", "Previews", [no_record] if run is None else preview_part(run, subject.image_size))
    if animated:
        yield ("process", "Reverse process", animation_part(subject, progress))
    yield ("loss", "Loss", [no_record] if run is None else _loss_parts(run))
    yield ("scores", "Scores", [no_record] if run is None else _score_parts(run))
    yield ("spectrum", "Power spectrum", spectrum_part(subject, images, without_folder))
    yield ("errors", "Errors of the network", error_part(subject, progress))
    yield ("repeat", "Versions and commands", _repeat_parts(subject))


def _facts(subject: Subject) -> Part:
    config, model = subject.model.config, subject.model
    data, optim, sampling = config.data, config.optim, model.sampling()
    sessions = files.json_lines(subject.run.sessions_path) if subject.run is not None else []
    classes = model.classes.names if model.classes is not None else ()
    seen, count = subject.step * config.train.batch_size, _image_count(subject, sessions)
    passes = f", {seen / count:.3g} times each" if count else ""
    done = subject.step >= config.train.steps
    state = "" if done else f" of {config.train.steps:,}: stopped before its end, or still training"
    nearest = nearest_preset(config)
    changes = f", {len(nearest[1])} keys changed" if nearest and nearest[1] else ""
    channels = "color" if data.channels == 3 else "gray"
    augmented = [
        name for name, used in (("flipped at random", data.flip), (f"augmentation {data.augment:g}", data.augment)) if used
    ]
    pairs = [
        ("preset", f"{nearest[0]}{changes}" if nearest else "its own configuration, below"),
        ("process", model.family.describe_process()),
        ("objective", f"{config.objective}, loss weight {config.optim.loss_weight}, times {config.optim.time_sampling}"),
        ("network", _network(config, model.network.parameter_count())),
        ("images", ", ".join([_source_name(config), f"{data.image_size[0]}x{data.image_size[1]} {channels}", *augmented])),
        ("number of images", f"{count:,}" if count else "not recorded"),
        (
            "classes",
            ", ".join(classes[:_MOST_CLASSES]) + (f" and {len(classes) - _MOST_CLASSES} more" * (len(classes) > _MOST_CLASSES)),
        ),
        ("steps", f"{subject.step:,}{state}"),
        ("batch size", f"{config.train.batch_size:,}"),
        ("images seen", f"{seen:,}{passes}"),
        ("optimizer", f"{optim.optimizer.capitalize()}, learning rate {optim.lr:g}, EMA decay {optim.ema_decay:g}"),
        ("training time", _training_time(subject, config.train.batch_size)),
        ("device", _distinct(sessions, _device) or "not recorded"),
        ("precision", _distinct(sessions, lambda one: one.get("precision")) or f"{config.train.precision} (set; not recorded)"),
        ("started", _distinct(sessions, lambda one: one.get("time"))),
        ("sampler", sampling.title),
        ("seed", str(config.seed)),
    ]
    return Part("facts", pairs)


def _network(config: Config, parameters: int) -> str:
    model = config.model
    attention = ", ".join(map(str, model.attention_levels)) or "none"
    patches = f", patches of {model.patch_size}x{model.patch_size} pixels" if model.patch_size > 1 else ""
    return (
        f"U-Net, {parameters / 1e6:.2f} M parameters; {model.base_channels} base channels x "
        f"{'-'.join(map(str, model.multipliers))}, blocks per level {model.blocks_per_level}, attention levels {attention}, "
        f"dropout {model.dropout:g}{patches}"
    )


def _source_name(config: Config) -> str:
    """The training images without their location."""
    source = config.data.source
    return source if source in DATASET_NAMES else without_folder(source)


def _image_count(subject: Subject, sessions: list[dict[str, Any]]) -> int | None:
    recorded = [one["images"] for one in sessions if is_number(one.get("images")) and one["images"] >= 1]
    if recorded:
        return int(recorded[-1])
    classes = subject.model.classes
    return sum(classes.counts) if classes is not None else None


def _training_time(subject: Subject, batch_size: int) -> str:
    """The time of the steps, from the logged speeds."""
    seconds, before = 0.0, 0.0
    for line in files.json_lines(subject.run.metrics_path) if subject.run is not None else []:
        step, speed = line.get("step"), line.get("images_per_sec")
        if is_number(step) and is_number(speed) and speed > 0 and before < step <= subject.step:
            seconds += (step - before) * batch_size / speed
            before = step
    return f"{duration(seconds)}, without previews, saves and scores" if seconds else "not recorded"


def _device(session: dict[str, Any]) -> str:
    count = session.get("processes")
    several = f"{count} x " if is_number(count) and count > 1 else ""
    return f"{several}{session.get('device')} ({session.get('hardware')})"


def _distinct(sessions: list[dict[str, Any]], value: Callable[[dict[str, Any]], object]) -> str:
    return "; ".join(dict.fromkeys(str(found) for found in map(value, sessions) if found))


def _plots(found: list[Plot]) -> list[Part]:
    return [Part("plots", [markup.plot(one.save, one.title) for one in found])] if found else []


def _loss_parts(run: Run) -> list[Part]:
    loss, bands = list(loss_plots(run, lambda text: None)), list(band_plots(run))
    parts = _plots([*loss, *bands])
    if not loss:
        parts.append(Part("missing", "No loss: metrics.jsonl is missing, or has no line that can be read."))
    elif not bands:
        parts.append(Part("missing", "No loss by time and frequency band yet: train.health_every_steps sets its interval."))
    return parts


def _score_parts(run: Run) -> list[Part]:
    tables = evaluate.score_tables(evaluate.recorded(run.evaluations_path), without_folder)
    if not tables:
        return [Part("missing", "No scores yet: blurdiff fid measures them.")]
    found = list(score_plots(run, lambda text: None))
    parts = _plots(found[:_MOST_PLOTS])
    if len(found) > _MOST_PLOTS:
        parts.append(Part("note", f"{len(found) - _MOST_PLOTS} more plots: blurdiff plot."))
    left = _MOST_ROWS
    for one in tables:
        if not left:
            break
        rows, left = one.rows[:left], max(0, left - len(one.rows))
        parts += [Part("heading", one.heading), Part("table", (one.heading, one.columns, rows))]
        parts.append(Part("details", ("Protocol of this table", Part("facts", one.shared))))
    total = sum(len(one.rows) for one in tables)
    if total > _MOST_ROWS:
        parts.append(Part("note", f"{_MOST_ROWS} of {total:,} rows; blurdiff results shows all."))
    return parts


def _repeat_parts(subject: Subject) -> list[Part]:
    config, run = subject.model.config, subject.run
    sessions = files.json_lines(run.sessions_path) if run is not None else []
    trained = sessions[-1].get("versions") if sessions else None
    trained = trained if isinstance(trained, dict) else {}
    here = evaluate.versions() | evaluate.platform_versions()
    rows = [[name, str(trained.get(name, "not recorded")), here.get(name, "")] for name in {**here, **trained}]
    place = _source_name(config)
    if place not in DATASET_NAMES or place != config.data.source:
        place = f"path/to/{place}"
    shared = config.model_copy(update={"data": config.data.model_copy(update={"source": place})})
    model = ["--run", f"runs/{subject.name}"] if run is not None else ["--weights", f"{subject.name}.safetensors"]
    teacher = f"runs/{subject.name}/teacher.safetensors" if run is not None else "path/to/teacher.safetensors"
    sampling = subject.model.sampling()
    sample = ["blurdiff", "sample", *model, "--n", "64", "--sampler", sampling.sampler, "--steps", str(sampling.steps)]
    return [
        Part("table", ("versions", ["", "training", "this report"], rows)),
        Part("heading", "Train again"),
        Part("code", _training_commands(config, place, subject.name, teacher)),
        Part("heading", "Sample"),
        Part("code", _command([*sample, "--seed", "0"])),
        Part("details", ("The resolved configuration", Part("code", to_yaml(shared).splitlines()))),
    ]


def _training_commands(config: Config, place: str, name: str, teacher: str) -> list[str]:
    run = ["--run", f"runs/{name}"]
    if OBJECTIVES[config.objective].predicts_endpoint:
        keys = {key: value for key, value in flatten(config).items() if key == "train.steps" or _is_tuned(key)}
        settings = [part for key, value in keys.items() for part in ("--set", f"{key}={yaml_text(value)}")]
        return _command(["blurdiff", "distill", teacher, "--data", place, "--run", f"runs/{name}-again", *settings], first=3)
    nearest = nearest_preset(config)
    if nearest is None:
        return [
            "# save the configuration below as preset.yaml",
            *_command(["blurdiff", "train", "--preset", "preset.yaml", *run]),
        ]
    preset, assignments = nearest
    data = [] if config.data.source in DATASET_NAMES else ["--data", place]
    settings = [part for assignment in assignments for part in ("--set", assignment)]
    return _command(["blurdiff", "train", "--preset", preset, *data, *settings, *run])


def _is_tuned(key: str) -> bool:
    """Whether a key of a distillation changes what is learned, and can differ from the teacher's."""
    return key not in FREE_KEYS and key != "objective" and not key.startswith(TEACHER_KEYS)


def _command(words: list[str], first: int = 2) -> list[str]:
    """A command for a shell, from pairs of words after the first ones; a long command has one pair per line."""
    line = shlex.join(words)
    if len(line) <= _LONG_COMMAND:
        return [line]
    pairs = [shlex.join(words[:first]), *(shlex.join(words[i : i + 2]) for i in range(first, len(words), 2))]
    return [pairs[0] + " \\", *(f"  {pair} \\" for pair in pairs[1:-1]), f"  {pairs[-1]}"]
