"""Scores: images to features to distances from reference images, each with its whole protocol."""

from blurcli.evaluate.environment import hardware, versions
from blurcli.evaluate.features import Features, load_features
from blurcli.evaluate.metrics import TITLES
from blurcli.evaluate.records import (
    SAMPLING,
    Group,
    comparable,
    group_title,
    is_number,
    record,
    recorded,
    sampling_title,
    subject_of,
)
from blurcli.evaluate.reference import Reference, image_reference, published_reference
from blurcli.evaluate.scorer import Scorer
from blurcli.evaluate.sources import ModelImages, ScoredImages, StoredImages, reported
from blurcli.evaluate.statistics import Statistics, array_batches, measure

__all__ = [
    "SAMPLING",
    "TITLES",
    "Features",
    "Group",
    "ModelImages",
    "Reference",
    "ScoredImages",
    "Scorer",
    "Statistics",
    "StoredImages",
    "array_batches",
    "comparable",
    "group_title",
    "hardware",
    "image_reference",
    "is_number",
    "load_features",
    "measure",
    "published_reference",
    "record",
    "recorded",
    "reported",
    "sampling_title",
    "subject_of",
    "versions",
]
