"""Training: the state and one step of it, the loop around it, and what watches over both."""

from blurcli.train.keeper import Metrics
from blurcli.train.loop import train
from blurcli.train.stops import Interrupted
from blurcli.train.trainer import Trainer, learning_rate

__all__ = ["Interrupted", "Metrics", "Trainer", "learning_rate", "train"]
