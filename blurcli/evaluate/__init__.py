"""Scores: from images to features to distances from reference images, each with its complete protocol."""

from blurcli.evaluate.environment import hardware, platform_versions, versions
from blurcli.evaluate.features import Features, load_features
from blurcli.evaluate.floor import Floor, floor_of
from blurcli.evaluate.metrics import TITLES
from blurcli.evaluate.ranking import SORT_KEYS, RankingTable, ranking_records, ranking_table, run_label, sorted_by
from blurcli.evaluate.records import (
    SAMPLING,
    Group,
    comparable,
    is_number,
    network_calls,
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
from blurcli.evaluate.trainings import Training, over_trainings, same_but_for_the_seed

__all__ = [
    "SAMPLING",
    "SORT_KEYS",
    "TITLES",
    "Features",
    "Floor",
    "Group",
    "ModelImages",
    "RankingTable",
    "Reference",
    "ScoreTable",
    "ScoredImages",
    "Scorer",
    "Statistics",
    "StoredImages",
    "Training",
    "array_batches",
    "comparable",
    "floor_of",
    "hardware",
    "heading",
    "image_reference",
    "is_number",
    "load_features",
    "measure",
    "network_calls",
    "over_trainings",
    "platform_versions",
    "published_reference",
    "ranking_records",
    "ranking_table",
    "record",
    "recorded",
    "run_label",
    "same_but_for_the_seed",
    "sampling_title",
    "score_tables",
    "sorted_by",
    "subject_of",
    "tabulate",
    "versions",
]
