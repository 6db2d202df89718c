"""Folders that diffusers loads, sampled where blurdiff cannot be imported: python exported.py REPORT.npz < cases.json

A case is a list: a name, a folder, and the arguments of the pipeline, with `autocast` for one in bf16. The arrays are uint8 (B, H, W, C); a case that ends with a
ValueError has its text. Then one folder is taken through what users do with a pipeline; `checks` holds the results.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from fnmatch import fnmatch
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray


class NoBlurdiff(MetaPathFinder):
    """An environment without blurdiff."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "blurcli":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NoBlurdiff())
sys.modules.pop("blurcli", None)

sys.path.append(str(Path(__file__).parent))

import pretend  # noqa: E402
import torch  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402
from diffusers.pipelines import pipeline_utils  # noqa: E402
from diffusers.utils import dynamic_modules_utils  # noqa: E402


def load(folder: str | Path, **options: Any) -> Any:
    pipe = DiffusionPipeline.from_pretrained(str(folder), trust_remote_code=True, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def arrays(images: list[Any]) -> NDArray[np.uint8]:
    stacked = np.stack([np.asarray(image) for image in images])
    return stacked[..., None] if stacked.ndim == 3 else stacked


def sampled(pipe: Any, autocast: bool = False, **options: Any) -> Any:
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return arrays(pipe(**options).images)
    except ValueError as error:
        return str(error)


def checks(folder: Path, work: Path) -> dict[str, bool]:
    """What must hold for a pipeline, by name."""
    pipe = load(folder, custom_pipeline=str(folder))
    plain = pipe(batch_size=3, seed=5, output_type="pt", num_inference_steps=3).images
    found = {
        "tensors are in [0, 1]": plain.shape[0] == 3 and float(plain.min()) >= 0 and float(plain.max()) <= 1,
        "image i does not depend on the batch": torch.equal(
            pipe(batch_size=2, seed=5, output_type="pt", num_inference_steps=3).images, plain[:2]
        ),
        "arrays are the tensors": np.array_equal(
            pipe(batch_size=3, seed=5, output_type="np", num_inference_steps=3, return_dict=False)[0],
            plain.permute(0, 2, 3, 1).numpy(),
        ),
    }
    drawn = [
        pipe(batch_size=2, generator=torch.Generator().manual_seed(seed), output_type="np", num_inference_steps=2).images
        for seed in (1, 1, 2)
    ]
    found["a generator decides"] = np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    before = torch.get_rng_state()
    pipe(seed=0, num_inference_steps=1)
    found["a seed leaves the global generator alone"] = torch.equal(before, torch.get_rng_state())
    pipe.save_pretrained(str(work / "again"))
    again = load(work / "again")
    found["a saved pipeline is the same"] = torch.equal(
        again(batch_size=3, seed=5, output_type="pt", num_inference_steps=3).images, plain
    )
    names = [sorted(str(path.relative_to(place)) for path in place.rglob("*.*")) for place in (folder, work / "again")]
    found["a saved pipeline has the same files"] = names[1] == [name for name in names[0] if name != "README.md"]
    again.to(torch.bfloat16)
    coarse = again(batch_size=3, seed=5, output_type="pt", num_inference_steps=3).images
    found["a network in bf16 gives nearly the same"] = 0 < float((coarse - plain).abs().max()) < 0.1
    found["moments stay in float64"] = again.process.tensors["spectrum"].dtype == torch.float64
    example = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(example.replace(f"path/to/{folder.name}", str(folder)), names)
    found["the example in its README runs"] = len(names["images"]) == 4
    loaded = from_the_hub(folder, work / "snapshot")
    found["what diffusers downloads is enough"] = torch.equal(
        loaded(batch_size=3, seed=5, output_type="pt", num_inference_steps=3).images, plain
    )
    pretend.Rules.float64 = False
    library = pretend.register()
    pipe.to(pretend.NAME)
    elsewhere = pipe(batch_size=3, seed=5, output_type="pt", num_inference_steps=3).images
    found["a device without float64 gives the same"] = float((elsewhere.cpu() - plain).abs().max()) < 1e-4
    del library
    return found


def from_the_hub(folder: Path, snapshot: Path) -> Any:
    """The pipeline as diffusers loads it from a repository with these files: it downloads those that its patterns choose."""
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]

    def download(repository: str, filename: str, **ignored: Any) -> str:
        (snapshot / filename).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(folder / filename, snapshot / filename))

    def download_all(repository: str, *, allow_patterns: list[str], ignore_patterns: list[str], **ignored: Any) -> str:
        for name in names:
            if any(fnmatch(name, p) for p in allow_patterns) and not any(fnmatch(name, p) for p in ignore_patterns):
                download(repository, name)
        return str(snapshot)

    def about(*ignored: Any, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(sha="0" * 40, siblings=[SimpleNamespace(rfilename=name) for name in names])

    for module in (pipeline_utils, dynamic_modules_utils):
        vars(module).update(hf_hub_download=download, model_info=about, snapshot_download=download_all)
    return load("someone/something")


def main(report: Path) -> None:
    cases = json.load(sys.stdin)
    pipes = {folder: load(folder) for folder in {folder for _, folder, _ in cases}}  # all of them, and then the first is used
    results = {name: sampled(pipes[folder], **options) for name, folder, options in cases}
    results["checks"] = json.dumps(checks(Path(cases[0][1]), report.parent))
    assert "blurcli" not in sys.modules
    np.savez(report, **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
