"""Scores of blurdiff and of clean-fid: the same folders, the same network; their values and their times.

    python docs/scores.py SAMPLES REFERENCE [COUNT]

The network has Inception's architecture and random weights, which take as long as the published ones.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from cleanfid import fid as clean_fid
from cleanfid.inception_torchscript import InceptionV3W
from torch import Tensor, nn

from blurcli.data.stream import open_stream
from blurcli.evaluate import inception, load_features, measure
from blurcli.evaluate.distances import frechet_distance, kernel_distance

CPU = torch.device("cpu")


class Layers(nn.Module):
    """Inception's layers, with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.network = inception.pytorch_network(lambda network: None)
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 299, 299) to (B, 2048)."""
        return self.network(x).squeeze(-1).squeeze(-1)


class StandIn(nn.Module):
    """The interface that clean-fid expects of Inception's file in its mode `clean`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.jit.trace(Layers().eval(), torch.randn(2, 3, 299, 299))

    def forward(self, x: Tensor) -> Tensor:
        """Not used in this mode."""
        return x


def main(samples: Path, reference: Path, count: int) -> None:
    """Print FID, KID and seconds of both tools."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        path = Path(folder) / "inception-2015-12-05.pt"
        torch.jit.script(StandIn().eval()).save(str(path))

        started = time.perf_counter()
        network = InceptionV3W(folder, download=False).eval()
        theirs = [
            clean_fid.get_folder_features(
                str(place), network, num=count, device=CPU, num_workers=2, batch_size=64, verbose=False
            )
            for place in (samples, reference)
        ]
        fid = clean_fid.fid_from_feats(*theirs)
        seconds = time.perf_counter() - started
        np.random.seed(0)  # noqa: NPY002  the generator that clean-fid draws from
        kid = clean_fid.kernel_distance(*theirs)
        print(f"clean-fid  FID {fid:.6f}  KID {kid:.8f}  {seconds:.1f} s")

        started = time.perf_counter()
        features = load_features("inception", "clean", CPU, path)
        ours = []
        for place in (samples, reference):
            stream = open_stream(place, 3)
            first = stream.read(np.arange(count))  # clean-fid uses the first ones
            ours.append(measure(map(torch.from_numpy, first), count, features))
        a, b = ours
        fid = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
        own_seconds = time.perf_counter() - started
        assert a.features is not None
        assert b.features is not None
        kid = kernel_distance(a.features, b.features)[0]
        print(f"blurdiff   FID {fid:.6f}  KID {kid:.8f}  {own_seconds:.1f} s: {seconds / own_seconds:.2f} times as fast")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 500)
