"""The files of a shared model: weights in 16 bits, its preset, samples, an animation, and a model card."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml

from blurcli.base import files
from blurcli.base.errors import quoted
from blurcli.config import to_yaml
from blurcli.evaluate import TITLES, Group, comparable, heading, tabulate
from blurcli.evaluate.records import Score
from blurcli.model.pipeline import Pipeline, to_uint8
from blurcli.model.weights import Weights, load_weights, save_weights, to_half_precision
from blurcli.visualize import save_grid
from blurcli.visualize.markup import render
from blurcli.visualize.outputs import Presentation, output_for
from blurcli.visualize.trajectories import AnimatedProcess, View, reverse_trajectory

WEIGHTS, PRESET, CARD, SAMPLES, ANIMATION = "model.safetensors", "config.yaml", "README.md", "samples.png", "reverse.gif"

_FRAMES = 31
_GRID_WIDTH_PX, _ANIMATED_WIDTH_PX = 512, 300
_MOST_ANIMATED_PX = 4_000_000  # of all frames; a GIF of noise has about a byte per pixel
_MARK = re.compile(r"\n<!-- written by blurdiff push; sha256 of the text above: ([0-9a-f]{64}) -->\n?\Z")


@dataclass(frozen=True)
class SharingOptions:
    """The options of sharing a model.

    Attributes:
        reference: its reference for users, such as hf://user/repo.
        license: an identifier, from `hub.check_license`.
        n: number of images in the grid of samples.
        animation: whether to make an animation.
        scores: the lines of the run's evaluations.jsonl; scores of other weights are ignored.
        precision: precision of the network for the samples; None for the preset's.
    """

    reference: str
    license: str
    n: int
    animation: bool
    scores: tuple[Score, ...] = ()
    precision: str | None = None


def write_shared(
    weights: Weights,
    share: SharingOptions,
    folder: Path,
    device: torch.device,
    on_progress: Callable[[float], None] = lambda done: None,
) -> None:
    """Write all files of a shared model into a folder, for upload.

    Args:
        weights: the trained model, in 32 bits.
        share: how it is shared.
        folder: an existing folder.
        device: device of sampling.
        on_progress: receives the number of sampled images, of `sampled_images`.

    Raises:
        UserError: a parameter does not fit into 16 bits, images are not finite, or a file cannot be written.
    """
    save_weights(to_half_precision(weights, folder / WEIGHTS))
    # Sample from the uploaded file, read back.
    shared = load_weights(folder / WEIGHTS)
    model = Pipeline.from_weights(shared, device, precision=share.precision)
    with files.replacing(folder / PRESET) as temporary:
        temporary.write_text(to_yaml(shared.config), encoding="utf-8")
    sampling = model.sampling()
    images = torch.cat([to_uint8(batch) for batch in model.generate(share.n, 0, sampling, on_progress=on_progress)])
    save_grid(images.numpy(), folder / SAMPLES, _scale(share.n, shared, _GRID_WIDTH_PX))
    if share.animation:
        _animate(model, shared, folder / ANIMATION, lambda images: on_progress(share.n + images))
    digest = Pipeline.from_weights(weights, torch.device("cpu")).digest if share.scores else None
    own = [score for score in share.scores if score.get("weights_sha256") == digest]
    with files.replacing(folder / CARD) as temporary:
        temporary.write_text(marked(_card(shared, model, share, own)), encoding="utf-8")


def sampled_images(weights: Weights, share: SharingOptions) -> int:
    """The number of images that `write_shared` samples."""
    return share.n + (_animated_count(weights.config.data.image_size) if share.animation else 0)


def marked(text: str) -> str:
    """A card with its own SHA-256 at the end, for `is_unedited`."""
    return f"{text}\n<!-- written by blurdiff push; sha256 of the text above: {_text_sha256(text)} -->\n"


def is_unedited(card: str) -> bool:
    """Whether a card is unchanged since `marked`, so that replacing it loses no edits."""
    card = card.replace("\r\n", "\n")
    found = _MARK.search(card)
    return found is not None and found[1] == _text_sha256(card[: found.start()])


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _animated_count(image_size: tuple[int, int]) -> int:
    height, width = image_size
    return next((n for n in (9, 4) if n * height * width * _FRAMES <= _MOST_ANIMATED_PX), 1)


def _animate(model: Pipeline, weights: Weights, path: Path, on_progress: Callable[[float], None]) -> None:
    """The reverse process of the first images of the grid."""
    count, steps = _animated_count(weights.config.data.image_size), model.sampling().steps
    animated = AnimatedProcess(path.stem, model.process, model)
    trajectory = reverse_trajectory([animated], count, 0, View(_FRAMES), on_step=lambda done: on_progress(count * done / steps))
    look = Presentation(scale=_scale(count, weights, _ANIMATED_WIDTH_PX))
    output_for(path).write([trajectory], path.stem, path, look)


def _scale(count: int, weights: Weights, width_px: int) -> int:
    """The enlargement at which a square grid of `count` images is at most `width_px` wide."""
    width, _ = Presentation(scale=1).picture_size(1, count, weights.config.data.image_size)
    return max(1, width_px // width)


def _card(weights: Weights, model: Pipeline, share: SharingOptions, scores: list[Score]) -> str:
    """The text of a model card."""
    config, data = weights.config, weights.config.data
    metadata = {
        "library_name": "blurdiff",
        "license": share.license,
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["blurdiff", "diffusion", "image-generation", *{config.process.kind: None}.keys() - {"diffusion"}],
    }
    what = (type(config.process).__doc__ or "").strip().splitlines()[0]
    seen = weights.step * config.train.batch_size
    unfinished = "" if weights.step >= config.train.steps else f" of {config.train.steps:,}"
    rows = {
        "process": f"`{config.process.kind}`: {what}",
        "objective": f"`{config.objective}`",
        "images": f"{data.image_size[0]}x{data.image_size[1]} pixels, {'gray' if data.channels == 1 else 'color'}",
        "training images": "the author's own" if data.source == "images" else f"`{data.source}`",
        "classes": ", ".join(weights.classes.names) if weights.classes else "",
        "network": f"U-Net, {sum(p.numel() for p in model.network.parameters()) / 1e6:.2f} M parameters, stored in 16 bits",
        "distilled": "from a trained model, for one to four steps" if model.family.objective.predicts_endpoint else "",
        "training": f"{weights.step:,}{unfinished} steps of {config.train.batch_size} images: {seen:,} images seen",
        "preset": f"[{PRESET}]({PRESET}), with every key",
    }
    return render(
        "model_card.md",
        metadata=yaml.safe_dump(metadata, sort_keys=False),
        name=share.reference.removeprefix("hf://"),
        share=share,
        samples=SAMPLES,
        animation=ANIMATION,
        sampling=model.sampling(),
        these=f"--weights {quoted(share.reference)}",
        facts=[pair for pair in rows.items() if pair[1]],
        scores=[_score_table(group) for group in comparable(scores)],
    )


def _score_table(group: Group) -> tuple[str, list[str], list[list[str]]]:
    """Heading, columns and rows of one protocol. The reference is named unless it is a path of the author's machine."""
    reference = str(group.protocol["reference"])
    shown = replace(group, protocol={**group.protocol, "reference": "images" if re.search(r"[/\\]", reference) else reference})
    rows = []
    for row in group.rows:
        texts = {key: f"{row[key]:.4g}" for key in TITLES if key in row}
        if row["seeds"] > 1:
            texts[group.metric] += f" ({row['min']:.4g} to {row['max']:.4g})"
        rows.append({**row, **texts, "sampler": group.title(row)})
    titles = {"sampler": "sampler", "steps": "steps", group.metric: TITLES[group.metric], "seeds": "seeds", **TITLES}
    return heading(shown), *tabulate(titles, rows)
