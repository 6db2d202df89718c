"""Write a model as a folder that diffusers loads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from blurcli.base import files
from blurcli.base.checkpoint import Tensors, check_fit
from blurcli.base.errors import UsageError, UserError
from blurcli.base.version import __version__
from blurcli.core.sampling_options import SAMPLING_OPTIONS
from blurcli.model.inference import architecture, empty_network
from blurcli.model.weights import Weights
from blurcli.portable.bundle import NotPortableError, bundle

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
"""The file in which diffusers expects the tensors of a component."""

_CODE_BYTES = 1 << 18  # about 180 kB
# Component: its class.
_COMPONENTS = {"unet": "BlurdiffUNet", "process": "BlurdiffProcess"}


def check_folder(out: Path) -> None:
    """Raise a UsageError if the folder `out` already exists and is not empty."""
    with files.explained(out):
        if out.resolve() == Path.cwd():
            raise UsageError(f"{out}: is the current folder; use the name of a new one")
        is_folder = out.is_dir() and not out.is_symlink()
        if out.is_symlink() or (out.exists() and not (is_folder and files.is_empty(out))):
            raise UsageError(f"{out}: already exists{' and is not empty' if is_folder else ''}; use another name")


def write_folder(weights: Weights, out: Path) -> int:
    """Write a model, its code and a README atomically into a new folder; returns its size in bytes.

    The parameters are in float32. The location of the training images is not written.

    Raises:
        UsageError: `out` already exists.
        UserError: the weights are damaged, the code cannot be exported, or the folder cannot be written.
    """
    check_folder(out)
    check_fit(empty_network(weights.config), weights.network, weights.path)
    code = {"pipeline.py": "pipeline", **{f"{name}/blurdiff_{name}.py": name for name in _COMPONENTS}}
    try:
        texts = {path: bundle(f"blurcli.portable.{name}") for path, name in code.items()}
    except NotPortableError as error:
        raise UserError(f"{out}: the code of this model cannot be exported ({error})") from None
    tensors = {"unet": weights.network, "process": weights.data.tensors()}
    configs = {"unet": architecture(weights.config), "process": _process_config(weights)}
    files.check_space(out, sum(tensor.nbytes for part in tensors.values() for tensor in part.values()) + _CODE_BYTES)
    index = {"_class_name": ["pipeline", "BlurdiffPipeline"]}
    texts["model_index.json"] = _json(index | {name: [f"blurdiff_{name}", kind] for name, kind in _COMPONENTS.items()})
    texts["README.md"] = _readme(weights, out.name)
    with files.new_folder(out) as folder:
        for name, kind in _COMPONENTS.items():
            (folder / name).mkdir()
            texts[f"{name}/config.json"] = _json({"_class_name": kind, **configs[name]})
            _save(tensors[name], folder / name / WEIGHTS_NAME, out)
        for path, text in texts.items():
            (folder / path).write_text(text, encoding="utf-8", newline="\n")
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def _process_config(weights: Weights) -> dict[str, Any]:
    config = weights.config
    return {
        "objective": config.objective,
        "image_size": config.data.image_size,
        "channels": config.data.channels,
        "process": config.process.model_dump(),
        "sample": config.sample.model_dump(include={one.name for one in SAMPLING_OPTIONS}),
        "classes": None if weights.classes is None else asdict(weights.classes),
        "class_dropout": config.optim.class_dropout,
        "centered": config.data.centered,
    }


def _save(tensors: Tensors, path: Path, out: Path) -> None:
    try:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:
        raise UserError(f"{out}: cannot be written ({error}): free disk space, or choose another location") from error


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


def _readme(weights: Weights, name: str) -> str:
    config = weights.config
    height, width = config.data.image_size
    labels = ", class_labels=0" if weights.classes is not None else ""
    steps = config.sample.steps
    return f"""---
library_name: diffusers
tags:
- blurdiff
- unconditional-image-generation
---

# {name}

Images of {height}x{width} pixels; objective {config.objective}, process {config.process.kind}, {weights.step:,} training
steps. Exported by `blurdiff export --format diffusers` (blurdiff {__version__}). It needs `diffusers` 0.35 or newer, and
not blurdiff itself: the code is in this folder. Read it before you set `trust_remote_code`.

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("path/to/{name}", trust_remote_code=True)
images = pipe(batch_size=4, num_inference_steps={steps}, seed=0{labels}).images
```
"""
