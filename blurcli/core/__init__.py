"""The diffusion core: pure functions of tensors. No files, no configuration, no console."""

from blurcli.core.dct import dct2, idct2
from blurcli.core.denoiser import Denoiser, EpsDenoiser, SpectralDenoiser
from blurcli.core.heat import HeatDissipation
from blurcli.core.process import BlurringDiffusion
from blurcli.core.sampling import SAMPLERS, encode, sample
from blurcli.core.unet import UNet

__all__ = [
    "SAMPLERS",
    "BlurringDiffusion",
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
