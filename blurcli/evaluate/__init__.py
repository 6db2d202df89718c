"""Scores: from images to features to distances from reference images, each with its complete protocol."""

from blurcli.evaluate.environment import hardware, platform_versions, versions
from blurcli.evaluate.features import Features, load_features
from blurcli.evaluate.floor import Floor, floor_of
from blurcli.evaluate.metrics import TITLES
from blurcli.evaluate.records import (
    SAMPLING,
    Group,
    comparable,
    is_number,
    record,
    recorded,
    sampling_title,
    subject_of,
)
from blurcli.evaluate.reference import Reference, image_reference, published_reference
from blurcli.evaluate.scored_images import ModelImages, ScoredImages, StoredImages
from blurcli.evaluate.scorer import Scorer
from blurcli.evaluate.statistics import Statistics, array_batches, measure
from blurcli.evaluate.tables import ScoreTable, heading, score_tables, tabulate

__all__ = [
    "SAMPLING",
    "TITLES",
    "Features",
    "Floor",
    "Group",
    "ModelImages",
    "Reference",
    "ScoreTable",
    "ScoredImages",
    "Scorer",
    "Statistics",
    "StoredImages",
    "array_batches",
    "comparable",
    "floor_of",
    "hardware",
    "heading",
    "image_reference",
    "is_number",
    "load_features",
    "measure",
    "platform_versions",
    "published_reference",
    "record",
    "recorded",
    "sampling_title",
    "score_tables",
    "subject_of",
    "tabulate",
    "versions",
]
