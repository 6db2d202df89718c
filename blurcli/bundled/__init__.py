"""The bundled models; README.md beside this file is their model card."""

from pathlib import Path

NAME = "shapes-blur"
"""The name of the model, and of the preset for its images."""

PATH = Path(__file__).parent / f"{NAME}.safetensors"

FAST_NAME = "shapes-fast"
"""The name of the same model, distilled."""

FAST_PATH = PATH.with_name(f"{NAME}-distilled.safetensors")

FILES = {NAME: PATH, "shapes": PATH, FAST_NAME: FAST_PATH}
"""What a person may call them, and their files."""
