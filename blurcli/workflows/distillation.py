"""Setup of a distillation: the trained model, the run folder, and a configuration derived from the model's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.base.errors import UsageError, UserError, option, quoted
from blurcli.workflows.session import Assignments, load_torch, overrides_of, read_weights, resolve_weights, training_source

if TYPE_CHECKING:
    from blurcli.base.runs import Run
    from blurcli.config import Config
    from blurcli.model.weights import Weights

OBJECTIVE = "consistency"
_TEACHERS = ("spectral",)  # objectives of networks that tuning can start from
_SHARE = 2  # the teacher's steps per step of tuning
_LEAST_STEPS = 500


@dataclass(frozen=True)
class Distillation:
    """A distillation to start or continue.

    Attributes:
        run: its folder.
        config: the resolved configuration.
        teacher: the trained model to distill.
    """

    run: Run
    config: Config
    teacher: Weights


def set_up(model: str, data: str | None, run: Path | None, assignments: Assignments | None) -> Distillation:
    """Set up the distillation of a model: a new one, or one to continue if the run folder exists.

    Args:
        model: a run folder, a weights file, a reference on the hub, or the name of the bundled model.
        data: images instead of the model's training images.
        run: the folder; None for the model's, with `-distilled` after its name.
        assignments: keys over those derived from the model's configuration.

    Raises:
        UsageError: there is no such model, or it cannot be distilled; keys do not fit it; the training images are unknown; or
            another model is distilled in the folder.
        UserError: the model's file is damaged.
    """
    load_torch()
    from blurcli.base.runs import resolve_run
    from blurcli.config import load_config, resolve_source

    source, own_run = resolve_weights(model)
    teacher = read_weights(source)
    check_teacher(teacher)
    folder = resolve_run(run) if run is not None else (own_run or _run_of(source)).distilled
    assigned = overrides_of(assignments)
    if data is not None:
        assigned.append((f"{option('data')} {data}", "data.source", resolve_source(data)))
    if folder.saved_states():
        _check_same_teacher(folder, teacher)
        return Distillation(folder, load_config(str(folder.config_path.resolve()), assigned), teacher)
    if not any(key == "data.source" for _, key, _ in assigned):
        own = training_source(teacher.config, own_run, "data")
        assigned.append((str(source), "data.source", own))
    return Distillation(folder, _configured(teacher, assigned), teacher)


def teacher_of(run: Run, config: Config) -> Weights | None:
    """The teacher of a run; None for a run of another objective.

    Raises:
        UsageError: the file is missing.
        UserError: it is damaged.
    """
    from blurcli.core.objectives import OBJECTIVES
    from blurcli.model.weights import load_weights

    if not OBJECTIVES[config.objective].predicts_endpoint:
        return None
    hint = f"name the model that is distilled: blurdiff distill MODEL {option('run')} {quoted(run.path)}"
    if not run.teacher_path.exists():
        raise UsageError(f"objective {config.objective}: {run.teacher_path} is missing; {hint}")
    try:
        return load_weights(run.teacher_path)
    except UserError as error:
        raise UserError(f"{error.text}; or {hint}") from None


def is_distilled(weights: Weights) -> bool:
    """Whether weights belong to a distilled model."""
    return weights.config.objective == OBJECTIVE


def teacher_digest(run: Run) -> str | None:
    """The digest of the teacher of a run, from the record of the training or the teacher's copy; else None."""
    from blurcli.base import files
    from blurcli.model.weights import load_weights

    recorded = [session["teacher"] for session in files.json_lines(run.sessions_path) if session.get("teacher")]
    if recorded:
        return str(recorded[-1])
    try:
        return load_weights(run.teacher_path).digest
    except UserError:
        return None


def check_teacher(teacher: Weights) -> None:
    """Refuse models that cannot be distilled.

    Raises:
        UsageError: the model cannot be distilled.
    """
    objective, kind = teacher.config.objective, teacher.config.process.kind
    if is_distilled(teacher):
        raise UsageError(f"{teacher.name}: is already distilled; name the model that it was distilled from")
    if objective not in _TEACHERS or kind != "diffusion":
        raise UsageError(
            f"{teacher.name}: only diffusion with objective {' or '.join(_TEACHERS)} can be distilled, and this model is "
            f"{kind} with objective {objective}"
        )


def _configured(teacher: Weights, assigned: list[tuple[str, str, Any]]) -> Config:
    """The configuration of a new distillation, with these overrides."""
    from blurcli.config import TEACHER_KEYS, DistillConfig, derive_config, flatten, leaves

    chosen = {key: (origin, value) for origin, path, nested in assigned for key, value in leaves({path: nested})}
    steps = _count(chosen, "train.steps", max(_LEAST_STEPS, teacher.step // _SHARE))
    parts = _count(chosen, "distill.intervals", DistillConfig().intervals)
    if "objective" in chosen and chosen["objective"][1] != OBJECTIVE:
        raise UsageError(f"{chosen['objective'][0]}: a distilled model has objective {OBJECTIVE}; leave it out")
    own: dict[str, Any] = {
        "objective": OBJECTIVE,
        "optim.optimizer": "adam",
        "optim.lr": teacher.config.optim.lr / 2,
        "optim.loss_weight": "consistency",
        "optim.warmup_steps": steps // 20,
        "optim.decay_from_step": max(1, steps // 20),
        "optim.cooldown": 0.0,
        "optim.ema_decay": max(0.9, 1 - 5 / steps),
        # 2, 4, 8, ... parts for equally many steps each, the finest last.
        "distill.double_every_steps": max(1, steps // math.ceil(math.log2(max(2, parts)))),
        "train.steps": steps,
        "sample.sampler": OBJECTIVE,
        "sample.steps": 2,
        "sample.eta": 0.0,
        "sample.guidance": 1.0,
        "sample.final": None,
    }
    config = derive_config(teacher.config, teacher.name, [*(("distillation", *pair) for pair in own.items()), *assigned])
    before, after = flatten(teacher.config), flatten(config)
    for key, (origin, _) in chosen.items():
        if key.startswith(TEACHER_KEYS) and before.get(key) != after.get(key):
            raise UsageError(f"{origin}: a distilled model has the {key} of its teacher, {before.get(key)}; leave it out")
    if teacher.classes is not None and config.optim.class_dropout and not teacher.config.optim.class_dropout:
        raise UsageError(
            f"{chosen['optim.class_dropout'][0]}: {teacher.name} was trained without unconditional images "
            "(optim.class_dropout: 0); leave it out"
        )
    return config


def _count(chosen: Mapping[str, tuple[str, Any]], key: str, default: int) -> int:
    """The value of an integer key, or the default, also for a value that the configuration will refuse."""
    _, value = chosen.get(key, ("", default))
    return value if type(value) is int and value > 0 else default


def _run_of(source: Path | str) -> Run:
    """The run folder that contains weights; for other files and the hub, a new run with their name."""
    from blurcli import bundled, hub
    from blurcli.base.runs import RUNS, Run

    if isinstance(source, str):
        return Run(RUNS / hub.parse(source).repository.rpartition("/")[2])
    if source == bundled.PATH:
        return Run(RUNS / "bundled")  # runs/shapes-blur belongs to the preset
    run = Run(source.parent.parent)
    return run if run.config_path.exists() and source.parent == run.weights_path(0).parent else Run(RUNS / source.stem)


def _check_same_teacher(run: Run, teacher: Weights) -> None:
    """Refuse another model than the teacher of a run; a lost or damaged copy of the teacher is written again."""
    if teacher_digest(run) != teacher.digest:
        raise UsageError(
            f"{run.path}: not a distillation of {teacher.name}; continue it with: "
            f"blurdiff train {option('run')} {quoted(run.path)}; or use another {option('run')}"
        )
