"""The diffusion core: functions and small classes of tensors. No files, no configuration, no console.

Names are imported when they are first used, so that the registries of choices (`samplers`, `objectives`, `weighting`,
`blur_schedules`) can be read without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blurcli.core.consistency import ConsistencyModel
    from blurcli.core.dct import dct2, idct2
    from blurcli.core.denoiser import Denoiser, EpsDenoiser
    from blurcli.core.heat import HeatDissipation
    from blurcli.core.preconditioning import SpectralDenoiser
    from blurcli.core.process import BlurringDiffusion
    from blurcli.core.sampling import encode, sample
    from blurcli.core.unet import UNet

_MODULES = {
    "BlurringDiffusion": "process",
    "ConsistencyModel": "consistency",
    "Denoiser": "denoiser",
    "EpsDenoiser": "denoiser",
    "HeatDissipation": "heat",
    "SpectralDenoiser": "preconditioning",
    "UNet": "unet",
    "dct2": "dct",
    "encode": "sampling",
    "idct2": "dct",
    "sample": "sampling",
}

__all__ = [
    "BlurringDiffusion",
    "ConsistencyModel",
    "Denoiser",
    "EpsDenoiser",
    "HeatDissipation",
    "SpectralDenoiser",
    "UNet",
    "dct2",
    "encode",
    "idct2",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
