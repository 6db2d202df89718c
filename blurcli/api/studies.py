"""The Python interface of studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blurcli.api.data import TrainingImages, source_of
from blurcli.training import Interrupted
from blurcli.workflows.study import Worker
from blurcli.workflows.study_report import report_of
from blurcli.workflows.study_setup import plan_study


def study(
    file: str | Path,
    data: TrainingImages | None = None,
    *,
    out: str | Path | None = None,
    features: str | Path | None = None,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Compare variants of a preset, or continue, as `blurdiff study`; tables and plots are written into the folder.

    Args:
        file: YAML file of the study.
        data: images instead of the file's, as for `train`.
        out: folder of the study; None for one in `runs/` with the name of the file.
        features: network of scores with `features: file`, a TorchScript or torch.export file, which is executed.
        device: `auto`, `cpu`, `cuda`, `mps` or `xpu`.

    Returns:
        A plain dictionary per variant, seed, length of training and score, so that `pandas.DataFrame(rows)` works: `variant`,
        `seed`, `at` (the length by which it is compared), `train_steps` (its own), `score` (its number in the file), `run`, the
        metrics (`fd`, `precision`, ...), and the protocol of the score.

    Raises:
        UsageError: something is wrong in the file, or the folder belongs to something else.
        UserError: a file cannot be read or written.
        KeyboardInterrupt: as for `train`.
    """
    network = None if features is None else Path(features).expanduser()
    folder = None if out is None else Path(out).expanduser()
    plan = plan_study(Path(file).expanduser(), source_of(data), folder, network, device)
    try:
        Worker(plan, device, network).work(plan.tasks)
    except Interrupted as stop:
        raise KeyboardInterrupt(f"{stop}; the same call continues") from None
    report = report_of(plan)
    report.write()
    return report.rows
