"""`blurdiff prefetch`."""

from __future__ import annotations

from blurcli.base.errors import UsageError
from blurcli.cli import common
from blurcli.workflows.scoring import fetch_features, fetch_reference
from blurcli.workflows.session import load_images, resolve_preset


def prefetch(
    preset: common.PresetOption = None,
    data: common.TrainingDataOption = None,
    mode: common.ModeOption = None,
    published: common.PublishedOption = None,
    assignments: common.AssignmentsOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Download what a preset needs, to use it without a network.

    Data and Inception. Downloads are stored in the cache: ~/.cache/blurdiff, or $BLURDIFF_CACHE.
    """
    if preset is None:
        raise UsageError("prefetch needs --preset NAME (blurdiff presets lists them)")
    config = resolve_preset(preset, data, assignments)

    import torch

    from blurcli.base import console
    from blurcli.base.cache import cache_folder

    result = {"cache": str(cache_folder())}
    for split in dict.fromkeys(("train", config.score.split)):
        dataset = load_images(config, config.data.source, split)
        result[f"data_{split}"] = f"{len(dataset.images):,} images of {dataset.name}"
    if "inception" in (config.score.features, config.train.score_features if config.train.score_every_steps else None):
        features = fetch_features("inception", mode or config.score.mode, torch.device("cpu"), None)
        result["inception"] = features.key
        if published is not None:
            height = config.data.image_size[0]
            result["reference"] = fetch_reference(published, features, height, config.score.split).name
    elif published is not None or mode is not None:
        unused = f"--reference {published}" if published is not None else f"--mode {mode}"
        raise UsageError(f"{unused}: is for Inception's features, and the preset scores by {config.score.features}")
    if as_json:
        console.result_json(result)
    else:
        console.table(["item", "location or name"], [[key, value] for key, value in result.items()])
