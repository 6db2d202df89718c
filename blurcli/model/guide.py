"""Autoguidance: a weaker version of a model, away from which sampling is guided (Karras et al. 2024, arXiv 2406.02507)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from blurcli.base.checkpoint import content_hash
from blurcli.base.errors import OptionError
from blurcli.config import Config
from blurcli.core import UNet
from blurcli.model.inference import load_network
from blurcli.model.weights import Weights


@dataclass(frozen=True)
class Guide:
    """A weaker version of a model: an earlier state of its training, or a smaller network on the same data.

    Attributes:
        network: the U-Net, in evaluation mode, on the device of the model.
        config: its resolved preset.
        digest: of its parameters.
    """

    network: UNet
    config: Config
    digest: str


def load_guide(guide: Weights, model: Weights, device: torch.device) -> Guide:
    """The guide of a model, from the weights files of both.

    Raises:
        OptionError: a guide of another process, objective or data.
        UserError: the tensors of its file do not fit its configuration.
    """
    _check_guide(model, guide)
    return Guide(load_network(guide, device), guide.config, content_hash(dict(guide.network))[:16])


def _check_guide(weights: Weights, guide: Weights) -> None:
    """Refuse a guide with outputs of another meaning than the model's."""
    own, other = weights.config, guide.config
    classes = tuple(found.names if found is not None else None for found in (weights.classes, guide.classes))
    same = {
        "process": own.process == other.process,
        "objective": own.objective == other.objective,
        "image size": (own.data.image_size, own.data.channels) == (other.data.image_size, other.data.channels),
        "range of the images": own.data.centered == other.data.centered,
        "classes": classes[0] == classes[1],
    }
    different = [name for name, equal in same.items() if not equal]
    if not different:
        moments = zip(weights.data.moments.in_model_space(), guide.data.moments.in_model_space(), strict=True)
        if not all(torch.equal(a, b) for a, b in moments):
            different = ["training images"]
    if different:
        reason = f"was trained with another {' and another '.join(different)} than the model; name an earlier or smaller one"
        raise OptionError("guide", guide.name, reason)
