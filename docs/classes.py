"""Check that samples are of the requested class, with a small classifier trained on real shapes.

    blurdiff train --preset shapes-classes
    python docs/classes.py WEIGHTS [COUNT] [GUIDANCE]

Samples COUNT images (default 300), of all classes in turn, with GUIDANCE (default 1).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from blurcli.data import Batches, ReadOptions, load_dataset
from blurcli.model.inference import choose_device
from blurcli.model.pipeline import Pipeline, to_uint8
from blurcli.model.weights import load_weights

STEPS = 600


def main(weights_path: Path, count: int, guidance: float) -> None:
    """Print the classifier's accuracy on new real shapes, and its agreement with the classes of samples."""
    device = choose_device("auto")
    weights = load_weights(weights_path)
    data, test = (
        load_dataset("shapes", split, weights.config.data.image_size, 3, ReadOptions(shapes_objects=1), classes=3)
        for split in ("train", "test")
    )
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width, wider in ((3, 32), (32, 64), (64, 96)):
        layers += [nn.Conv2d(width, wider, 3, padding=1), nn.BatchNorm2d(wider), nn.ReLU(), nn.MaxPool2d(2)]
    classifier = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)).to(device)
    batches = Batches(data.images, 64, 0, True, device, labels=data.labels)
    classifier(batches(0))
    optimizer = torch.optim.Adam(classifier.parameters(), 2e-3)
    for step in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(classifier(batches(step)), batches.labels(step)).backward()
        optimizer.step()
    classifier.eval()

    def classify(images: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            parts = [classifier(part.to(device).float() / 127.5 - 1).argmax(1).cpu() for part in images.split(500)]
        return torch.cat(parts).numpy()

    real = classify(torch.from_numpy(np.array(test.images[:5000])))
    print(f"real shapes: {(real == test.labels[:5000]).mean():.2%} of 5,000 new ones")
    pipeline = Pipeline.from_weights(weights, device)
    sampling = pipeline.sampling(label="all", guidance=guidance)
    samples = torch.cat([to_uint8(x) for x in pipeline.generate(count, 0, sampling)])
    requested = np.arange(count) % 3
    agreed = classify(samples) == requested
    each = ", ".join(f"{name} {agreed[requested == k].mean():.1%}" for k, name in enumerate(data.classes))
    print(f"samples: {agreed.mean():.2%} of {count} (guidance {guidance:g}; {each})")


if __name__ == "__main__":
    arguments = sys.argv[2:]
    main(Path(sys.argv[1]), int(arguments[0]) if arguments else 300, float(arguments[1]) if len(arguments) > 1 else 1.0)
