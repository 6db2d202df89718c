"""Weights files: a trained network and everything needed for sampling.

Tensors: the EMA weights `net.*`; the data's moments `spectrum`, `mean` (an imported model may have none) and, for networks in
opponent colors, `opponent`; for calibrated objectives the `gain` (an imported model has none); and the family's own, such as
`starts` of heat dissipation (blurred training images).
Metadata: the configuration, the step and the classes. The network may be stored in float16.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from blurcli.base import checkpoint
from blurcli.base.checkpoint import Tensors
from blurcli.base.errors import UserError
from blurcli.base.runs import Run
from blurcli.config import Config, from_json, to_json
from blurcli.families import FAMILIES, ModelData


@dataclass(frozen=True)
class Classes:
    """The classes of the training images.

    Attributes:
        names: in the order of their numbers.
        counts: number of images of each.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """The content of a weights file.

    Attributes:
        config: the resolved preset of the training.
        step: training steps done.
        network: EMA parameters by name.
        data: moments of the data, gain, and the family's own tensors.
        path: the file.
        classes: of a class-conditional network; else None.
        reference: name of the file in messages, such as a reference on the hub; None for its path.
    """

    config: Config
    step: int
    network: Tensors
    data: ModelData
    path: Path
    classes: Classes | None = None
    reference: str | None = None

    @property
    def name(self) -> str:
        """The name of the file in messages."""
        return self.reference or str(self.path)

    @property
    def digest(self) -> str:
        """The SHA-256 of the network, in hex."""
        return checkpoint.content_hash(dict(self.network))


def save_weights(weights: Weights) -> None:
    """Write a weights file to `weights.path`, atomically."""
    tensors = {f"net.{name}": tensor for name, tensor in weights.network.items()} | weights.data.tensors()
    metadata = {"config": to_json(weights.config), "step": str(weights.step)}
    if weights.classes is not None:
        metadata["classes"] = json.dumps(asdict(weights.classes))
    checkpoint.write(weights.path, "weights", tensors, metadata)


def load_weights(path: Path, reference: str | None = None) -> Weights:
    """Read a weights file.

    Args:
        path: the file.
        reference: name of the file in messages, such as a reference on the hub; None for its path.

    Raises:
        UsageError: there is no such file, or it is not a weights file of blurdiff.
        UserError: it is damaged.
    """
    name = reference or str(path)
    metadata, tensors = checkpoint.read(path, "weights", name)
    with checkpoint.naming_version(metadata, Run(path.parent.parent)):
        config, step = from_json(metadata["config"], name), checkpoint.read_step(metadata, name)
        try:
            data = ModelData.from_tensors(tensors, FAMILIES[config.process.kind].extra_tensors, config)
        except KeyError as missing:
            raise UserError(f"{name}: the tensor {missing} is missing; the file is damaged") from None
        classes = _read_classes(metadata, config, name)
    network = {key.removeprefix("net."): _as_float32(tensor) for key, tensor in tensors.items()}
    return Weights(config, step, network, data, path, classes, reference)


def _as_float32(tensor: Tensor) -> Tensor:
    """Parameters, in float32 even if they are stored in 16 bits."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def to_half_precision(weights: Weights, path: Path) -> Weights:
    """The same weights for a file at `path`, with the network in float16 and without the location of the training images.

    Raises:
        UserError: a parameter is too large for float16.
    """
    network = {name: tensor.half() for name, tensor in weights.network.items()}
    for name, tensor in network.items():
        if not tensor.isfinite().all():
            raise UserError(f"{weights.name}: net.{name} does not fit into 16 bits (65,504 at most): share the file unchanged")
    data = weights.config.data
    if Path(data.source).name != data.source:  # a path; its last part might be the name of a dataset
        data = data.model_copy(update={"source": "images"})
    config = weights.config.model_copy(update={"data": data})
    return replace(weights, config=config, network=network, path=path, reference=None)


def _read_classes(metadata: Mapping[str, str], config: Config, name: str) -> Classes | None:
    wanted = config.data.classes
    if wanted is None:
        return None
    try:
        plain = json.loads(metadata["classes"])
        classes = Classes(tuple(str(label) for label in plain["names"]), tuple(int(count) for count in plain["counts"]))
        fits = len(classes.names) == len(classes.counts) == wanted
        if not fits or min(classes.counts) < 0 or not sum(classes.counts):
            raise ValueError("their number differs from its configuration")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: its classes cannot be read ({error}); the file is damaged") from None
    return classes
