"""The floor of a score: the distance between two sets of real images, at the same number of images."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import torch

from blurcli.base import files
from blurcli.base.cache import cache_folder
from blurcli.evaluate.distances import frechet_distance
from blurcli.evaluate.reference import Reference
from blurcli.evaluate.statistics import RunningMoments

_VERSION = "1"  # of cached floors; raise it when their values change


@dataclass(frozen=True)
class Floor:
    """The distance of `n` reference images from all others.

    Attributes:
        distance: squared Frechet distance.
        n: number of images in the first set.
        others: number of images in the second set.
    """

    distance: float
    n: int
    others: int


def floor_of(reference: Reference, features_key: str, n: int) -> Floor | None:
    """The floor of a reference for scores of n images, measured once and cached.

    n of the reference images with stored features are drawn at random, and their moments are compared with those of all others;
    no image is read. A perfect model would have about this score.

    Args:
        reference: measured images.
        features_key: `Features.key` of the features.
        n: number of images of the scores. Fewer are drawn if the reference has less than twice as many, or fewer stored
            features.

    Returns:
        None if there are no stored features (published statistics), or too few images for the number of features.
    """
    statistics = reference.statistics
    if statistics.features is None:
        return None
    n = min(n, len(statistics.features), statistics.count // 2)
    if n <= len(statistics.mean):  # the covariance would be singular
        return None
    key = hashlib.blake2b(f"{_VERSION}/{reference.hash}/{features_key}/{n}".encode(), digest_size=16).hexdigest()
    path = cache_folder() / "statistics" / f"floor-{key}.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return Floor(float(known["distance"]), int(known["n"]), int(known["others"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    order = torch.randperm(len(statistics.features), generator=torch.Generator().manual_seed(0))
    moments = RunningMoments()
    moments.add(statistics.features[order[:n]])
    mean, covariance = moments.finish()
    # The moments of the others follow from the sums over all images.
    count, others = statistics.count, statistics.count - n
    offset, other_offset = mean - statistics.mean, (mean - statistics.mean) * (-n / others)
    scatter = (count - 1) * statistics.covariance - (n - 1) * covariance
    scatter -= n * torch.outer(offset, offset) + others * torch.outer(other_offset, other_offset)
    distance = frechet_distance(mean, covariance, statistics.mean + other_offset, scatter / (others - 1))
    floor = Floor(distance, n, others)
    with files.replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(floor)), encoding="utf-8")
    return floor
