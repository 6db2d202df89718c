"""The network as a diffusers model."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from blurcli.core.unet import UNet


class BlurdiffUNet(UNet, ModelMixin, ConfigMixin):
    """The U-Net of a model of blurdiff, `unet(x, t, labels=...)`; see `UNet.forward`, and `Architecture` for the arguments."""

    @register_to_config
    def __init__(
        self,
        channels: int,
        base_channels: int,
        multipliers: Sequence[int],
        blocks_per_level: int,
        attention_levels: Sequence[int],
        head_channels: int | None,
        dropout: float,
        patch_size: int,
        time_scale: float,
        norm_groups: int | None,
        classes: int | None,
        augmented: bool,
    ) -> None:
        super().__init__(
            channels=channels,
            base_channels=base_channels,
            multipliers=multipliers,
            blocks_per_level=blocks_per_level,
            attention_levels=attention_levels,
            head_channels=head_channels,
            dropout=dropout,
            patch_size=patch_size,
            time_scale=time_scale,
            norm_groups=norm_groups,
            classes=classes,
            augmented=augmented,
        )
