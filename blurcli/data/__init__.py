"""Datasets: from names, folders and archives to one uint8 array, and from it to deterministic batches."""

from blurcli.data.batches import Batches
from blurcli.data.dataset import Dataset, ReadOptions
from blurcli.data.moments import measure_moments
from blurcli.data.registry import DATASETS, is_available, load_dataset

__all__ = ["DATASETS", "Batches", "Dataset", "ReadOptions", "is_available", "load_dataset", "measure_moments"]
