"""The bundled models; README.md beside this file is their model card."""

from pathlib import Path

NAME = "shapes-blur"
"""The name of the model of shapes, and of the preset for its images."""

PATH = Path(__file__).parent / f"{NAME}.safetensors"

PHOTOS = "photos"
"""The name of the model of photos, which restores them."""

PHOTOS_PATH = Path(__file__).parent / f"{PHOTOS}.safetensors"

MODELS = {NAME: PATH, "shapes": PATH, PHOTOS: PHOTOS_PATH}
"""The files by name."""
