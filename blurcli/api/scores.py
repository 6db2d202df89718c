"""Scores in Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch

from blurcli import evaluate
from blurcli.api.data import TrainingImages, source_of
from blurcli.api.images import Images
from blurcli.api.model import Model, load
from blurcli.api.options import MAX_SEED, SamplingOptions, check_names, check_whole, given_names
from blurcli.base import console
from blurcli.base.errors import OptionError, UsageError
from blurcli.workflows.scoring import ScoringOptions, check_enough, evaluations_path

_BATCH = 256
_MAKING = ("seed", "precision", *SamplingOptions.__annotations__)  # options of images that a model makes


class ScoreOptions(SamplingOptions, total=False):
    """What is scored, how, and against what.

    Keys:
        n: number of images; for a model the preset's if not given, else all; fewer are evenly spaced.
        seed: seed of a model's images.
        features: `inception`, `pixels`, or the path of a TorchScript or torch.export file, which is executed.
        mode: resizing and network of clean-fid: `clean`, `legacy_tensorflow` or `legacy_pytorch`.
        split: the reference images: `train` or `test`.
        reference: published statistics instead of images: `cleanfid:NAME[:SIZE[:SPLIT]]`.
        inception: Inception's file, or its folder.
        device: where the features are computed.
        precision: of the network of a model that is named, as for `load`.
        force: whether to score fewer images than features.
        name: label of the score.
        sampler, steps, eta, delta, label, guidance, final: how a model makes its images, as for `Model.sample`.

    `seed`, `precision` and the last ones are not for images that are there, and `precision` not for a model that is loaded.
    """

    n: int
    seed: int
    features: str
    mode: Literal["clean", "legacy_tensorflow", "legacy_pytorch"]
    split: Literal["train", "test"]
    reference: str
    inception: str | Path
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    force: bool
    name: str


def score(
    images: Model | Images | str | Path, data: TrainingImages | None = None, **options: Unpack[ScoreOptions]
) -> dict[str, Any]:
    """Score images against reference images, as `blurdiff fid` does.

    Args:
        images: a model, or the run or weights file of one; or `Images`, or an array (N, H, W, C) uint8.
        data: the reference: a folder, .zip or dataset's name, or images as for `train`; None for the model's training data.
        **options: see `ScoreOptions`.

    Returns:
        The scores with their whole protocol; `fid`, or in other features `fd`, and others. Those of a run are also appended to
        its `evaluations.jsonl`.

    Raises:
        UsageError: no reference, too few images, or options that do not fit.
        UserError: a file cannot be read or written, or the network is not to be had.
    """
    check_names("score", options, ScoreOptions)
    if options.get("n") is not None:
        check_whole("n", options["n"], 2)
    check_whole("seed", options.get("seed", 0), 0, MAX_SEED)
    inception = options.get("inception")
    chosen = ScoringOptions(
        options.get("features"),
        options.get("mode"),
        options.get("split"),
        source_of(data),
        options.get("reference"),
        None if inception is None else Path(inception),
        options.get("device", "auto"),
    )
    _check_use(images, options)
    if isinstance(images, (str, Path)):
        images = load(images, device=chosen.device, precision=options.get("precision"))
    task: evaluate.ScoredImages
    record = None
    labels = {"name": options.get("name", "")}
    if isinstance(images, Model):
        pipeline, run = images.pipeline, images.run
        count = options.get("n") or pipeline.config.score.n
        record = None if run is None else evaluations_path(run)
        scorer = chosen.scorer(pipeline.config, run, (pipeline.config.data.channels, *pipeline.config.data.image_size))
        task = evaluate.ModelImages(pipeline, images.step, count, options.get("seed", 0), images.sampling(options))
        labels["weights"] = str(images.path)
    else:
        given = images if isinstance(images, Images) else Images(np.asarray(images))
        count = options.get("n") or len(given)
        if count > len(given):
            raise OptionError("n", count, f"there are {len(given)} images; use at most {len(given)}")
        chosen_rows = np.linspace(0, len(given) - 1, count).astype(int)
        rows = given.array[chosen_rows].transpose(0, 3, 1, 2)
        scorer = chosen.scorer(None, None, rows.shape[1:])
        parts = (torch.from_numpy(np.ascontiguousarray(rows[i : i + _BATCH])) for i in range(0, count, _BATCH))
        task = evaluate.StoredImages(parts, count, {"samples": "an array", "samples_found": len(given)})
    check_enough(scorer, count, options.get("force", False))
    with console.progress(f"scoring {count:,} images", count) as update, evaluate.reported(task, update) as on_batch:
        result = scorer.score(task, on_batch, **labels)
    if record is not None:
        evaluate.record(record, result)
    return result


def _check_use(images: Any, options: Mapping[str, Any]) -> None:
    """Refuse options that would change nothing."""
    if isinstance(images, Model) and options.get("precision") is not None:
        raise OptionError("precision", options["precision"], "is chosen when a model is loaded; leave it out")
    if not isinstance(images, (Model, str, Path)) and (unused := given_names(options, *_MAKING)):
        raise UsageError(f"{unused}: decide how a model makes images, and these are made; leave them out")
