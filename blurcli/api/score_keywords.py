"""The options of `Model.score` and `blurcli.score`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from blurcli.api.data import TrainingImages, source_of
from blurcli.api.options import MAX_SEED, check_names, check_whole
from blurcli.core.sampling_options import SamplingKeywords
from blurcli.workflows.scoring import ScoringOptions


class ScoreKeywords(SamplingKeywords, total=False):
    """Options of scoring.

    Keys:
        n: number of images; for a model the preset's if not given.
        seed: seed of a model's images.
        features: `inception`, `pixels`, or the path of a TorchScript or torch.export file, which is executed.
        mode: resizing and network of clean-fid: `clean`, `legacy_tensorflow` or `legacy_pytorch`.
        split: the reference images: `train` or `test`.
        reference: published statistics instead of images: `cleanfid:NAME[:SIZE[:SPLIT]]`.
        inception: Inception's file, or its folder.
        device: device of the features.
        precision: precision of a named model's network, as for `load`.
        force: whether to score fewer images than features.
        name: label of the score.
        sampler, steps, eta, delta, label, guidance, final: how a model samples its images, as for `Model.sample`.
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


def scoring_options(data: TrainingImages | None, options: Mapping[str, Any]) -> ScoringOptions:
    """Check the options of a score; `options` has keys of `ScoreKeywords`.

    Raises:
        UsageError: an option is out of its range.
    """
    check_names("score", options, ScoreKeywords)
    if options.get("n") is not None:
        check_whole("n", options["n"], 2)
    check_whole("seed", options.get("seed", 0), 0, MAX_SEED)
    inception = options.get("inception")
    return ScoringOptions(
        options.get("features"),
        options.get("mode"),
        options.get("split"),
        source_of(data),
        options.get("reference"),
        None if inception is None else Path(inception),
        options.get("device", "auto"),
    )
