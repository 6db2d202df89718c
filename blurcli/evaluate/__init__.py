"""Scores: images -> features -> distances to reference images, each with its whole protocol."""

from blurcli.evaluate.features import Features, load_features
from blurcli.evaluate.judge import (
    Judge,
    Reference,
    contribute_images,
    file_reference,
    hardware,
    image_reference,
    model_protocol,
    versions,
)
from blurcli.evaluate.records import MEASURES, Group, comparable, record, recorded
from blurcli.evaluate.statistics import Statistics, array_batches, measure

__all__ = [
    "MEASURES",
    "Features",
    "Group",
    "Judge",
    "Reference",
    "Statistics",
    "array_batches",
    "comparable",
    "contribute_images",
    "file_reference",
    "hardware",
    "image_reference",
    "load_features",
    "measure",
    "model_protocol",
    "record",
    "recorded",
    "versions",
]
