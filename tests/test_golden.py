"""The bundled model's first image, pixel by pixel: a change of any step from noise to image shows here."""

import pytest
import torch

from blurcli import bundled
from blurcli.model.pipeline import Pipeline
from blurcli.model.weights import Weights, load_weights

# Values of (channel, row, column) of image 0 of seed 0, in [-1, 1], 4 steps; measured with torch 2.15 on an AVX2 CPU. The network
# runs in float32, whose rounding differs between processors and kernels by less than 1e-4 after four steps; a change of a sampler,
# a schedule, the embedding of time or the stream of noise moves these pixels by more than 1e-2.
PIXELS = [(0, 4, 4), (1, 10, 20), (2, 16, 16), (0, 25, 9), (1, 31, 31), (2, 7, 26)]
GOLDEN: dict[str, list[float]] = {
    "abm": [-0.76196, -0.20676, -0.84905, -0.89014, -0.94711, -0.07511],
    "ddim": [-0.6906, -0.20961, -0.69808, -0.73267, -0.77873, 0.05924],
}
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    weights: Weights = load_weights(bundled.PATH)
    train = weights.config.train.model_copy(update={"precision": "fp32"})
    config = weights.config.model_copy(update={"train": train})
    return Pipeline.from_weights(Weights(**{**vars(weights), "config": config}), torch.device("cpu"))


@pytest.mark.parametrize("sampler", GOLDEN)
def test_pixels_of_the_bundled_model(pipeline: Pipeline, sampler: str) -> None:
    (images,) = pipeline.generate(1, 0, pipeline.sampling(sampler, 4))
    found = [float(images[0, channel, row, column]) for channel, row, column in PIXELS]
    assert found == pytest.approx(GOLDEN[sampler], abs=TOLERANCE)
