"""blurdiff: train, sample, animate and score blurring diffusion models.

    import blurcli as bd
    images = bd.load("shapes").sample(64)
    images.save("grid.png")

The names below import PyTorch when they are used first; `import blurcli` alone is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from blurcli.base.version import __version__ as __version__

if TYPE_CHECKING:
    from blurcli.api import Animation, Images, Model, RestoredPhoto, be_quiet, distill, load, score, study, train
    from blurcli.base.errors import UsageError, UserError

__all__ = [
    "Animation",
    "Images",
    "Model",
    "RestoredPhoto",
    "UsageError",
    "UserError",
    "be_quiet",
    "distill",
    "load",
    "score",
    "study",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("blurcli.base.errors" if name.endswith("Error") else "blurcli.api"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
