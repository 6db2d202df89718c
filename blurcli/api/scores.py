"""The Python interface of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

from blurcli import evaluate
from blurcli.api.data import TrainingImages
from blurcli.api.images import Images
from blurcli.api.model import Model, load
from blurcli.api.options import given_names
from blurcli.api.score_keywords import ScoreKeywords, scoring_options
from blurcli.base.errors import OptionError, UsageError
from blurcli.core.sampling_options import SamplingKeywords
from blurcli.workflows.scoring import check_enough, score_images

_BATCH = 256
_MAKING = ("seed", "precision", *SamplingKeywords.__annotations__)  # options of images that a model makes


def score(
    images: Model | Images | str | Path, data: TrainingImages | None = None, **options: Unpack[ScoreKeywords]
) -> dict[str, Any]:
    """Score images against reference images, as `blurdiff fid`.

    Args:
        images: a model, its run or its weights file; or `Images`, or an array (N, H, W, C) uint8.
        data: the reference: a folder, .zip or dataset's name, or images as for `train`; None for the model's training data.
        **options: see `ScoreKeywords`.

    Returns:
        The scores with their complete protocol: `fid`, or in other features `fd`, and others. Scores of a run are also appended
        to its `evaluations.jsonl`.

    Raises:
        UsageError: no reference, too few images, or options that do not fit.
        UserError: a file cannot be read or written, or the network is not available.
    """
    chosen = scoring_options(data, options)
    if isinstance(images, (str, Path)):
        images = load(images, device=chosen.device, precision=options.pop("precision", None))
    if isinstance(images, Model):
        return images.score(data, **options)
    if unused := given_names(options, *_MAKING):
        raise UsageError(f"{unused}: decide how a model makes images, and these are made; leave them out")
    given = images if isinstance(images, Images) else Images(np.asarray(images))
    count = options.get("n") or len(given)
    if count > len(given):
        raise OptionError("n", count, f"there are {len(given)} images; use at most {len(given)}")
    chosen_rows = np.linspace(0, len(given) - 1, count).astype(int)
    rows = given.array[chosen_rows].transpose(0, 3, 1, 2)
    scorer = chosen.scorer(None, None, rows.shape[1:])
    parts = (torch.from_numpy(np.ascontiguousarray(rows[i : i + _BATCH])) for i in range(0, count, _BATCH))
    stored = evaluate.StoredImages(parts, count, {"samples": "an array", "samples_found": len(given)})
    check_enough(scorer, count, options.get("force", False))
    return score_images(scorer, stored, count, name=options.get("name", ""))
