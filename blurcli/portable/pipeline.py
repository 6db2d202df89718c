"""A diffusers pipeline for a model of blurdiff: `DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput

_OUTPUT_TYPES = ("pil", "np", "pt")


class BlurdiffPipeline(DiffusionPipeline):
    """Generates images from noise, or for inverse heat dissipation from blurred images, with a model trained by blurdiff.

    Image i depends only on the model, the sampler, its steps, the seed and i, and not on the batch size: bit for bit on a CPU.

    Args:
        unet: the network.
        process: the diffusion process, with moments of the data and default settings.
    """

    model_cpu_offload_seq = "unet"

    # Without types: diffusers before 0.36 fails on annotations that are text, as with `from __future__ import annotations`.
    def __init__(self, unet, process):  # type: ignore[no-untyped-def]
        super().__init__()
        self.register_modules(unet=unet, process=process)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        class_labels: Any = None,
        guidance_scale: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        **options: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Sample images.

        Args:
            batch_size: number of images, at least 1.
            num_inference_steps: steps of the sampler; None for the model's default, as for all following options.
            generator: gives the seed; None for PyTorch's global generator.
            seed: in [0, 2**64), instead of a generator: image i is image i of `blurdiff sample --seed`.
            class_labels: for a class-conditional model the name or number of a class, `all` in turn, `none`, or one name or
                number per image; None for the class frequencies of the training data.
            guidance_scale: classifier-free guidance; 1 is none.
            output_type: `pil`; `np` for an array (B, H, W, C) in [0, 1]; `pt` for a tensor (B, C, H, W) in [0, 1].
            return_dict: whether the result is an object with `images`; else it is a tuple.
            **options: sampler, eta, delta, final, as in `blurdiff sample`.

        Raises:
            ValueError: options that do not fit the model or each other.
        """
        if output_type not in _OUTPUT_TYPES:
            raise ValueError(f"unknown output_type {output_type!r}: choose one of {', '.join(_OUTPUT_TYPES)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if seed is not None and generator is not None:
            raise ValueError("seed, generator: each sets the noise; use one of them")
        if seed is None:
            if isinstance(generator, list):
                raise ValueError("generator: every image has its own random stream; use one generator for all of them")
            device = "cpu" if generator is None else generator.device
            seed = int(torch.randint(2**63 - 1, (1,), generator=generator, device=device))
        sampling = self.process.sampling(steps=num_inference_steps, guidance=guidance_scale, **options)
        labels = self.process.labels(class_labels, batch_size, seed)
        with self.progress_bar(total=sampling.steps) as bar:
            images = self.process.generate(self.unet, seed, batch_size, sampling, labels, lambda *step: bar.update())
        images = (images.clamp(-1, 1) + 1) / 2
        if output_type != "pt":
            images = images.permute(0, 2, 3, 1).float().cpu().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_config(self, save_directory: str, *arguments: Any, **options: Any) -> None:
        """Write `model_index.json` and the code beside it, so that the output of `save_pretrained` can be loaded again."""
        super().save_config(save_directory, *arguments, **options)
        folder = Path(save_directory)
        index = json.loads((folder / self.config_name).read_text(encoding="utf-8"))
        index["_class_name"] = ["pipeline", type(self).__name__]
        index.pop("_name_or_path", None)  # the folder that it was loaded from
        (folder / "pipeline.py").write_text(_source(type(self)), encoding="utf-8")
        for name in ("unet", "process"):
            component = getattr(self, name)
            kind = type(getattr(component, "_orig_mod", component))  # of a compiled network
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"blurdiff_{name}.py").write_text(_source(kind), encoding="utf-8")
            index[name] = [f"blurdiff_{name}", kind.__name__]
        (folder / self.config_name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _source(kind: type) -> str:
    """The text of the file that defines a class at the time of loading; see `bundle`."""
    source: str = vars(sys.modules[kind.__module__])["SOURCE"]
    return source
