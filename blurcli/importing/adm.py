"""The names and shapes of parameters in checkpoints of guided diffusion's U-Net (Dhariwal and Nichol 2021, arXiv 2105.05233).

The U-Net is the same function as `core.unet.UNet` if its residual blocks add the time embedding, with strided convolutions down
and convolutions up. Attention with several heads orders its channels in one of two ways, which a checkpoint does not show:
q, k and v of all heads (`use_new_attention_order`, as here), or q, k and v of one head after the other. Both published
implementations set `use_new_attention_order = True` in all configurations and use one head, where the two are the same:
configs/*.py of AaltoML/generative-inverse-heat-dissipation and soumik-kanad/blurring_diffusion.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch

from blurcli.base.checkpoint import Tensors
from blurcli.base.errors import UsageError
from blurcli.config import Config
from blurcli.importing.pth import Checkpoint
from blurcli.model.inference import build_network

_BLOCK = {
    "norm_1": "in_layers.0",
    "conv_1": "in_layers.2",
    "time": "emb_layers.1",
    "norm_2": "out_layers.0",
    "conv_2": "out_layers.3",
    "skip": "skip_connection",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "project": "proj_out"}


def deduce_keys(checkpoint: Checkpoint) -> dict[str, Any]:
    """The keys of a preset that follow from the shapes of the parameters, dotted, with their values.

    Raises:
        UsageError: it is another network.
    """
    tensors = checkpoint.network
    first, time = tensors.get("input_blocks.0.0.weight"), tensors.get("time_embed.0.weight")
    if first is None or time is None or first.ndim != 4 or time.ndim != 2:
        names = ", ".join(list(tensors)[:3])
        raise UsageError(
            f"{checkpoint.path}: its network is not the U-Net of guided diffusion; its parameters are {names}, ..."
        )
    levels: list[list[tuple[int, bool]]] = [[]]
    for i in itertools.count(1):
        convolution = tensors.get(f"input_blocks.{i}.0.in_layers.2.weight")
        if f"input_blocks.{i}.0.op.weight" in tensors:
            levels.append([])
        elif convolution is not None:
            levels[-1].append((len(convolution), f"input_blocks.{i}.1.qkv.weight" in tensors))
        else:
            break
    base_channels = time.shape[1]
    kinds = [set(level) for level in levels]
    alike = all(len(kind) == 1 for kind in kinds) and len({len(level) for level in levels}) == 1
    if not alike or any(width % max(1, base_channels) for kind in kinds for width, _ in kind):
        widths = [[width for width, _ in level] for level in levels]
        raise UsageError(
            f"{checkpoint.path}: its U-Net has blocks of widths {widths} per level, over {base_channels} base channels; only "
            "levels of equal blocks with convolutions between them can be imported"
        )
    stages = [next(iter(kind)) for kind in kinds]
    return {
        "data.channels": first.shape[1],
        "model.base_channels": base_channels,
        "model.multipliers": [width // base_channels for width, _ in stages],
        "model.blocks_per_level": len(levels[0]),
        "model.attention_levels": [level for level, (_, attention) in enumerate(stages) if attention],
    }


def rename_parameters(checkpoint: Checkpoint, config: Config, legacy_attention: bool = False) -> Tensors:
    """The parameters under the names, and in the shapes, of the U-Net of a configuration.

    Args:
        checkpoint: the trained network.
        config: from `importing.resolve`.
        legacy_attention: whether q, k and v of one attention head come before those of the next.

    Raises:
        UsageError: a parameter is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        network = build_network(config).state_dict()
    names = _their_names(network)
    left = checkpoint.network.keys() - names.values()
    found = {}
    for ours, theirs in names.items():
        tensor, shape = checkpoint.network.get(theirs), network[ours].shape
        if tensor is None:
            raise _other(checkpoint, f"{theirs} is missing")
        # Their attention has one-dimensional convolutions over all pixels.
        if (*tensor.shape, *(1,) * (len(shape) - tensor.ndim)) != tuple(shape):
            raise _other(checkpoint, f"{theirs} has the shape {tuple(tensor.shape)} where {tuple(shape)} would fit")
        found[ours] = tensor.reshape(shape)
        head_channels = config.model.head_channels
        if legacy_attention and head_channels is not None and ".attention.qkv." in ours:
            by_head = found[ours].reshape(-1, 3, head_channels, *shape[1:])
            found[ours] = by_head.transpose(0, 1).reshape(shape)
    if left:
        raise _other(checkpoint, f"{min(left)} is unknown")
    return found


def _other(checkpoint: Checkpoint, problem: str) -> UsageError:
    return UsageError(f"{checkpoint.path}: unsupported variant of the guided-diffusion U-Net ({problem})")


def _their_names(ours: Iterable[str]) -> dict[str, str]:
    """Their name of every parameter, by our name."""
    parts = {name: name.split(".") for name in ours}
    upsampling = sorted({int(p[1]) for p in parts.values() if p[0] == "up" and p[2] == "conv"})
    attended = {(p[0], int(p[1])) for p in parts.values() if p[0] in ("down", "middle", "up") and p[2] == "attention"}

    def layer(stage: str, rest: list[str]) -> str:
        """The name of a layer of a residual block, which is first in its stage, or of the attention after it."""
        ours, name, *last = rest
        inside = {"block": f"0.{_BLOCK.get(name)}", "attention": f"1.{_ATTENTION.get(name)}"}[ours]
        return ".".join([stage, inside, *last])

    def renamed(part: str, *rest: str) -> str:
        if part in ("time", "last"):
            return ".".join([{"time": "time_embed", "last": "out"}[part], *rest])
        if part == "first":
            return f"input_blocks.0.0.{rest[0]}"
        i, inside = int(rest[0]), list(rest[1:])
        if part == "middle":  # a flat sequence: block, attention, block
            return layer("middle_block", inside) if i == 0 else layer("middle_block", inside).replace(".0.", ".2.", 1)
        if part == "down":
            return f"input_blocks.{i + 1}.0.op.{inside[-1]}" if inside[0] == "conv" else layer(f"input_blocks.{i + 1}", inside)
        # Their upsampling belongs to the previous stage.
        stage = i - sum(before < i for before in upsampling)
        if inside[0] == "conv":
            return f"output_blocks.{stage - 1}.{1 + ((part, i - 1) in attended)}.conv.{inside[-1]}"
        return layer(f"output_blocks.{stage}", inside)

    return {name: renamed(*path) for name, path in parts.items()}
