"""What a distillation begins with: the trained model, the run folder, and a configuration that follows from the model's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurcli.errors import UsageError, option
from blurcli.session import Assignments, load_torch, named_weights, overrides_of, own_source, read_weights

if TYPE_CHECKING:
    from blurcli.config import Config
    from blurcli.runs import Run
    from blurcli.weights import Weights

OBJECTIVE = "consistency"
_TEACHERS = ("spectral",)  # objectives whose networks already predict what tuning starts from
_KEPT = ("process.", "model.", "data.image_size", "data.channels", "data.centered", "data.classes", "data.augment")
_SHARE = 2  # of the teacher's steps, one in so many is tuned
_LEAST_STEPS = 500
_DOUBLINGS = 4  # of the parts of the path, so that the last fourth of the steps has the finest: 2, 4, 8, 16


@dataclass(frozen=True)
class Distillation:
    """A distillation that begins or continues.

    Attributes:
        run: its folder.
        config: the resolved configuration.
        teacher: the trained model that is distilled.
    """

    run: Run
    config: Config
    teacher: Weights


def set_up(model: str, data: str | None, run: Path | None, assignments: Assignments | None) -> Distillation:
    """The distillation of a model, which begins, or continues where its run folder is there.

    Args:
        model: a run folder, a weights file, a reference on the hub, or the name of the bundled model.
        data: images instead of those that the model was trained on.
        run: the folder; None for one beside the model's, with `-distilled` after its name.
        assignments: keys over those that follow from the model's configuration.

    Raises:
        UsageError: no such model, one that cannot be distilled, keys that do not fit it, images that are not known, or a folder
            in which another model is distilled.
        UserError: the model's file is damaged.
    """
    load_torch()
    from blurcli.config import load_config, resolve_source
    from blurcli.runs import RUNS, Run
    from blurcli.weights import load_weights

    source, own_run = named_weights(model)
    teacher = read_weights(source)
    _check_teacher(teacher)
    folder = Run(run) if run is not None else (own_run or Run(RUNS / Path(str(source)).stem)).distilled
    assigned = overrides_of(assignments)
    if data is not None:
        assigned.append((f"{option('data')} {data}", "data.source", resolve_source(data)))
    if folder.config_path.exists():
        if not folder.teacher_path.exists() or _digest(load_weights(folder.teacher_path)) != _digest(teacher):
            raise UsageError(f"{folder.path}: not a distillation of {teacher.name}; use another {option('run')}")
        return Distillation(folder, load_config(str(folder.config_path.resolve()), assigned), teacher)
    if not any(key == "data.source" for _, key, _ in assigned):
        own = own_source(teacher.config, own_run, "data")
        assigned.append((str(source), "data.source", own))
    return Distillation(folder, _configured(teacher, assigned), teacher)


def teacher_of(run: Run, config: Config) -> Weights | None:
    """The model that a run distills; None for a run of another objective.

    Raises:
        UsageError: the run was not begun by `blurdiff distill`.
        UserError: the file is damaged.
    """
    from blurcli.core.objectives import OBJECTIVES
    from blurcli.weights import load_weights

    if not OBJECTIVES[config.objective].ends_path:
        return None
    if not run.teacher_path.exists():
        raise UsageError(f"objective {config.objective}: tunes a trained model; begin with: blurdiff distill MODEL")
    return load_weights(run.teacher_path)


def _check_teacher(teacher: Weights) -> None:
    objective, kind = teacher.config.objective, teacher.config.process.kind
    if objective == OBJECTIVE:
        raise UsageError(f"{teacher.name}: is distilled already; name the model that it was distilled from")
    if objective not in _TEACHERS or kind != "diffusion":
        raise UsageError(
            f"{teacher.name}: only diffusion with objective {' or '.join(_TEACHERS)} can be distilled, and this model is "
            f"{kind} with objective {objective}"
        )


def _configured(teacher: Weights, assigned: list[tuple[str, str, Any]]) -> Config:
    """The configuration of a new distillation, with these overrides."""
    from blurcli.config import derive_config, flatten

    keys = flatten(derive_config(teacher.config, teacher.name, assigned))
    chosen = {key for _, key, _ in assigned}
    steps = keys["train.steps"] if "train.steps" in chosen else max(_LEAST_STEPS, teacher.step // _SHARE)
    own: dict[str, Any] = {
        "objective": OBJECTIVE,
        "optim.lr": keys["optim.lr"] / 2,
        "optim.loss_weight": "consistency",
        "optim.warmup_steps": steps // 20,
        "optim.decay_from_step": max(1, steps // 20),
        "optim.ema_decay": max(0.9, 1 - 5 / steps),
        "distill.double_every_steps": max(1, steps // _DOUBLINGS),
        "train.steps": steps,
        "sample.sampler": OBJECTIVE,
        "sample.steps": 2,
        "sample.eta": 0.0,
        "sample.guidance": 1.0,
        "sample.final": None,
    }
    config = derive_config(teacher.config, teacher.name, [*(("distillation", *pair) for pair in own.items()), *assigned])
    before, after = flatten(teacher.config), flatten(config)
    for origin, key, _ in assigned:
        if key.startswith(_KEPT) and before.get(key) != after.get(key):
            raise UsageError(f"{origin}: a distilled model has the {key} of its teacher, {before.get(key)}; leave it out")
    return config


def _digest(weights: Weights) -> str:
    from blurcli.checkpoint import content_hash

    return content_hash(dict(weights.network))
