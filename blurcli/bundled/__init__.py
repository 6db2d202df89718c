"""The model that comes with blurdiff; README.md beside this file says what it is."""

from pathlib import Path

NAME = "shapes-blur"
"""Of the preset whose images it makes, and what --weights takes for it."""

PATH = Path(__file__).parent / f"{NAME}.safetensors"
