"""The conditions of a network besides the time: the classes of the images, and guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blurcli.base.errors import OptionError, UsageError, did_you_mean, option
from blurcli.config import Config
from blurcli.core.rng import draw_classes
from blurcli.core.sampling_options import SamplingConfig
from blurcli.model.weights import Classes

LISTED_CLASSES = 20
"""Largest number of classes that are named in a message, or above a grid."""

_USUAL_AUTOGUIDANCE = 2.0  # docs/samplers.md


@dataclass(frozen=True)
class Conditioning:
    """Which classes and which guidance the network of a model gets.

    Attributes:
        config: of the model.
        classes: of a class-conditional network; None for none.
        guide: the configuration of the weaker model that guides; None for none.
        device: of the labels.
    """

    config: Config
    classes: Classes | None
    guide: Config | None
    device: torch.device

    def resolve(self, label: str | None, guidance: float | None) -> float:
        """The guidance, with the preset's value for None; both are checked. See `Pipeline.sampling`.

        Raises:
            OptionError: a label or a guidance that does not fit the model.
        """
        if self.classes is None:
            unguided = None if guidance == 1 or self.guide is not None else guidance
            for name, value in (("label", label), ("guidance", unguided)):
                if value is not None:
                    other = f", or name weaker weights with {option('guide')}" if name == "guidance" else ""
                    reason = f"this model has no classes; train a class-conditional one with data.classes=N{other}"
                    raise OptionError(name, value, reason)
            return self._guidance_by_guide(guidance)
        if label is not None and label not in (*self.classes.names, "none", "all"):
            hint = did_you_mean(label, self.classes.names[:LISTED_CLASSES])
            raise OptionError("label", label, f"unknown class{hint} (known: {self._listed}, none, all)")
        if label == "none" and (untrained := self._untrained_without_class):
            raise OptionError("label", label, f"{untrained}; name a class, or all")
        if self.guide is not None:
            return self._guidance_by_guide(guidance)
        guidance = self.config.sample.guidance if guidance is None else guidance
        if guidance != 1 and (untrained := self._untrained_without_class):
            raise OptionError("guidance", f"{guidance:g}", f"{untrained}; use 1")
        return guidance

    def _guidance_by_guide(self, guidance: float | None) -> float:
        if self.guide is None:
            return 1.0
        return _USUAL_AUTOGUIDANCE if guidance is None else guidance

    def of_samples(self, indices: Sequence[int], seed: int, sampling: SamplingConfig) -> dict[str, Any]:
        """Keyword arguments of the network for sampled images: their classes, int64 (B,), and the guidance.

        Args:
            indices: of the images of the seed.
            seed: decides the classes where `sampling` does not.
            sampling: from `Pipeline.sampling`.
        """
        by_guide = {} if self.guide is None else {"guidance": sampling.guidance}
        if self.classes is None or sampling.label == "none":
            return by_guide
        names = self.classes.names
        if sampling.label == "all":
            chosen = [index % len(names) for index in indices]
        elif sampling.label is not None:
            chosen = [names.index(sampling.label)] * len(indices)
        else:
            chosen = draw_classes(self.classes.counts, seed, indices)
        return {"labels": torch.tensor(chosen, device=self.device), "guidance": sampling.guidance}

    def of_images(self, labels: NDArray[np.int64] | None) -> dict[str, Any]:
        """Keyword arguments of the network for given images, which have classes of their own; without guidance.

        Where the classes are unknown, the network is unconditional. One that was trained with classes only has no such mode:
        its embedding of "no class" is as it was initialized, and a drawn class would be wrong for most images. It is refused.

        Args:
            labels: numbers of the classes, (B,); None where they are unknown.

        Raises:
            UsageError: they are unknown, and the network was trained with classes only.
        """
        if self.classes is None:
            return {}
        if labels is not None:
            return {"labels": torch.from_numpy(np.array(labels, np.int64)).to(self.device)}
        if untrained := self._untrained_without_class:
            raise UsageError(
                f"the classes of the images are unknown, and {untrained}: use images in sub-folders that are named as its "
                f"classes ({self._listed})"
            )
        return {}

    def numbers(self, names: Sequence[str] | None) -> NDArray[np.int64] | None:
        """See `Pipeline.labels_of`."""
        if names is None or self.classes is None or not set(names) <= set(self.classes.names):
            return None
        return np.array([self.classes.names.index(name) for name in names], np.int64)

    @property
    def _listed(self) -> str:
        assert self.classes is not None
        return ", ".join(self.classes.names[:LISTED_CLASSES]) + (", ..." if len(self.classes.names) > LISTED_CLASSES else "")

    @property
    def _untrained_without_class(self) -> str:
        """Why images without a class are not for this model; else an empty text."""
        for who, config in (("this model", self.config), ("its guide", self.guide)):
            if config is not None and not config.optim.class_dropout:
                return f"{who} was trained without unconditional images (optim.class_dropout: 0)"
        return ""
