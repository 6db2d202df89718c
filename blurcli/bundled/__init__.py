"""The bundled model; README.md beside this file is its model card."""

from pathlib import Path

NAME = "shapes-blur"
"""The name of the model, and of the preset for its images."""

PATH = Path(__file__).parent / f"{NAME}.safetensors"

NAMES = (NAME, "shapes")
"""What a person may call it."""
