"""Datasets: from names, folders and archives to one uint8 array, and from that to deterministic batches."""

from blurcli.data.batches import Batches
from blurcli.data.dataset import Dataset, load_dataset
from blurcli.data.moments import measure_moments, measure_starts

__all__ = ["Batches", "Dataset", "load_dataset", "measure_moments", "measure_starts"]
