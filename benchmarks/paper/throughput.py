"""Does reading keep up with training? Clips a second of either, at the paper's sizes."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common.model import ConcatFusion
from benchmarks.methods.training import BATCH_SIZE
from benchmarks.paper.datasets import paper_data
from benchmarks.paper.datasets.base import Clip, Resolution
from benchmarks.paper.datasets.reading import Reader
from benchmarks.paper.datasets.sample import Look, write_sample
from benchmarks.paper.datasets.store import build_stores
from benchmarks.paper.encoders import Sizes, build_model
from benchmarks.paper.loading import Reading, load

# As CREMA-D has them: 480 x 360, sentences of two to three seconds.
LOOK = Look(clips=256, width=480, height=360, frames=9, seconds=2.5)


class Throughput(NamedTuple):
    """Clips a second."""

    files: float
    cache: float
    training: float | None


def measure(
    console: Console,
    look: Look = LOOK,
    sizes: Sizes = Sizes(),  # noqa: B008
    *,
    workers: int = 2,
    batches: int = 12,
    steps: int = 2,
) -> Throughput:
    """Time a made-up CREMA-D: batches from the files, from the cache, and steps of joint training.

    The files are in the system's memory when they are read, as those of a small data set are from
    the second epoch on. The step is that of this machine, on its GPU if it has one.

    Args:
        console: For the progress.
        look: Of the clips.
        sizes: Of networks and inputs.
        workers: Processes that read.
        batches: To read; the time counts from the first one on.
        steps: Of training; 0: not timed.
    """
    data = paper_data("cremad")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "data")
        with console.status("writing clips"):
            write_sample(data.name, root, look)
        clips = data.scan(root).clips
        stores = build_stores(
            data, clips, sizes.resolution, Path(folder, "cache"), max(1, workers), console
        )
        files, cache = (
            _reading_speed(
                clips, Reader(data.modalities, sizes.resolution, None, source), workers, batches
            )
            for source in ({}, stores)
        )
    model = build_model(data, data.modalities, {}, sizes, 0, text_encoder="", image_encoder=None)
    training = _training_speed(model, sizes.resolution, steps) if steps else None
    return Throughput(files, cache, training)


def _reading_speed(clips: list[Clip], reader: Reader, workers: int, batches: int) -> float:
    """Clips a second with the draws of training, from the first batch on."""
    draw = np.random.default_rng(0)
    readings = [
        [Reading(int(place), (batch, number)) for number, place in enumerate(places)]
        for batch, places in enumerate(draw.integers(len(clips), size=(batches, BATCH_SIZE)))
    ]
    loader: Iterator[Mapping[str, Tensor]] = iter(load(clips, reader, readings, workers))
    next(loader)
    started = time.perf_counter()
    read = sum(1 for _ in loader)
    return BATCH_SIZE * read / (time.perf_counter() - started)


def _training_speed(model: ConcatFusion, resolution: Resolution, steps: int) -> float:
    """Clips a second of joint training on a batch that is there already, after one step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    side = resolution.pixels
    inputs = {
        "audio": torch.randn(BATCH_SIZE, 1, resolution.sound, 128, device=device),
        "video": torch.zeros(BATCH_SIZE, 3, 3, side, side, dtype=torch.uint8, device=device),
    }
    labels = torch.arange(BATCH_SIZE, device=device) % model.num_classes
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        loss = F.cross_entropy(model.fuse(model.encode(inputs)), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        float(loss.detach())  # waits for the device

    step()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return BATCH_SIZE * steps / (time.perf_counter() - started)
