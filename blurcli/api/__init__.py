"""The Python interface: models, their images and animations, training and scores; see docs/python.md."""

from blurcli.api.animation import Animation
from blurcli.api.images import Images
from blurcli.api.model import Model, load
from blurcli.api.restoration import RestoredPhoto
from blurcli.api.scores import score
from blurcli.api.studies import study
from blurcli.api.training import distill, train
from blurcli.base.console import be_quiet

__all__ = ["Animation", "Images", "Model", "RestoredPhoto", "be_quiet", "distill", "load", "score", "study", "train"]
