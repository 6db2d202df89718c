"""Training: the trainer (state and one step), the loop, checkpointing, logging, monitoring, signals."""

from blurcli.training.logging import Metrics
from blurcli.training.loop import Callbacks, train
from blurcli.training.signals import Interrupted
from blurcli.training.trainer import Trainer, learning_rate

__all__ = ["Callbacks", "Interrupted", "Metrics", "Trainer", "learning_rate", "train"]
