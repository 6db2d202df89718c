"""Training: the trainer (state and one step), the loop, checkpointing, logging, monitoring, signals."""

from blurcli.train.logging import Metrics
from blurcli.train.loop import Callbacks, train
from blurcli.train.signals import Interrupted
from blurcli.train.trainer import Trainer, learning_rate

__all__ = ["Callbacks", "Interrupted", "Metrics", "Trainer", "learning_rate", "train"]
