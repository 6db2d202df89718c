"""blurdiff: train, sample, animate and score blurring diffusion models.

    import blurcli as bd
    images = bd.load("shapes").sample(64)
    images.save("grid.png")

The names below import PyTorch when they are used first; `import blurcli` alone is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blurcli.api import Animation, Images, Model, be_quiet, distill, load, score, train
    from blurcli.errors import UsageError, UserError

__version__ = "0.1.0"
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
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("blurcli.errors" if name.endswith("Error") else "blurcli.api"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
