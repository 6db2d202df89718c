"""Compare blur, no blur and heat dissipation with each of their objectives, with equal network, steps and seeds.

    python docs/family.py FOLDER [STEPS]

Trains `shapes-blur` with the blur of the paper, `shapes-noblur` and `shapes-heat`, each for STEPS steps (default 1,200) with
each of its objectives, scores 1,000 samples, bounds the likelihood of 128 test images and prints a table. Existing runs in
FOLDER are not trained again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RECIPE = [
    *("model.base_channels=32", "optim.lr=1e-3", "optim.warmup_steps=100", "optim.decay_from_step=500"),
    *("optim.ema_decay=0.999", "train.batch_size=32"),
]
"""A wider network and larger batches than the presets'."""
PAPERS_PATH = ["process.blur_schedule=sin2", "process.blur_sigma_max=20"]
VARIANTS = {
    "shapes-blur": ("spectral", "v", "eps"),
    "shapes-noblur": ("spectral", "v", "eps"),
    "shapes-heat": ("spectral", "residual"),
}


def blurdiff(*arguments: object) -> dict[str, Any]:
    """Run a command and return its JSON output."""
    command = [sys.executable, "-m", "blurcli", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(folder: Path, steps: int) -> None:
    """Train, score and print the table row by row."""
    print("| preset | objective | FD | log-spectral distance | bits/dim |\n|---|---|---|---|---|", flush=True)
    for preset, objectives in VARIANTS.items():
        for objective in objectives:
            run = folder / f"{preset}-{objective}"
            settings = [*RECIPE, *(PAPERS_PATH if preset == "shapes-blur" else [])]
            settings += [f"train.steps={steps}", f"train.save_every_steps={steps}", f"train.preview_every_steps={steps}"]
            assignments = [part for setting in (*settings, f"objective={objective}") for part in ("--set", setting)]
            if not (run / "weights").is_dir():
                blurdiff("train", "--preset", preset, "--run", run, *assignments)
            heat = preset == "shapes-heat"
            score = blurdiff("fid", "--run", run, "--n", 1000, *(() if heat else ("--final", "noisy")))
            # The bound with the training noise: a larger delta costs bits at every level, independent of the network.
            delta = ("--delta", 0.01) if heat else ()
            bits = blurdiff("likelihood", "--run", run, "--split", "test", "--n", 128, *delta)
            row = (score["fd"], score["log_spectral_distance"], bits["bits_per_dim"])
            print(f"| `{preset}` | `{objective}` | " + " | ".join(f"{figure:.3f}" for figure in row) + " |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1200)
