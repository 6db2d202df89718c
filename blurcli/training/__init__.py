"""Training: the trainer (state and one step), the loop, checkpointing, logging, monitoring, signals."""

from blurcli.training.logging import Metrics
from blurcli.training.loop import Reporter, SilentReporter, train
from blurcli.training.signals import Interrupted
from blurcli.training.trainer import Trainer, learning_rate

__all__ = ["Interrupted", "Metrics", "Reporter", "SilentReporter", "Trainer", "learning_rate", "train"]
