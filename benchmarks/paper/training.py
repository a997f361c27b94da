"""The training loop: clips from disk, mixed precision, several processes, stopped and gone on."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.errors import DataError
from benchmarks.common.model import ConcatFusion, Features
from benchmarks.common.records import damaged, unwritable, write_whole
from benchmarks.methods.base import EncodedRows, Method, Setting
from benchmarks.methods.training import (
    BATCH_SIZE,
    Best,
    batch_places,
    build_optimizer,
    keep_only,
    validate,
)
from benchmarks.paper.datasets.base import Clip
from benchmarks.paper.datasets.reading import Reader
from benchmarks.paper.datasets.splits import Split
from benchmarks.paper.loading import Reading, load
from benchmarks.paper.ranks import Ranks
from benchmarks.paper.settings import Precision, ProtocolName


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs: How many.
        decay_every: Epochs between two drops of the learning rate to a tenth.
        learning_rate: Of SGD.
        seed: Of the order of the clips and of every draw.
        protocol: Says how the clips are split.
        precision: Of the encoders; all else is float32. float16 would need its gradients scaled,
            which methods that change gradients would have to know.
        workers: Processes that read clips.
        save_every: Steps between two checkpoints; there is one after each epoch as well.
    """

    epochs: int
    decay_every: int
    learning_rate: float
    seed: int
    protocol: ProtocolName = "paper"
    precision: Precision = "float32"
    workers: int = 0
    save_every: int = 100


class Training:
    """A run in progress.

    The encoders are on the device. The heads, the loss and the method are on the CPU: they are
    small, and every method does the same there as in the comparison.

    Args:
        model: Fresh.
        method: Fresh; set up here.
        clips: All of them.
        reader: Of the clips.
        split: Places in ``clips``.
        plan: See there.
        device: Of the encoders.
        ranks: This process among others.
    """

    def __init__(
        self,
        model: ConcatFusion,
        method: Method,
        clips: Sequence[Clip],
        reader: Reader,
        split: Split,
        plan: Plan,
        device: torch.device,
        ranks: Ranks = Ranks(),  # noqa: B008
    ) -> None:
        self.model, self.method, self.split, self.plan = model, method, split, plan
        self._clips, self._reader = clips, reader
        self._device, self._ranks = device, ranks
        model.encoders.to(device)
        if ranks.size > 1 and device.type == "cuda":
            convert = torch.nn.SyncBatchNorm.convert_sync_batchnorm
            model.encoders = convert(model.encoders)  # type: ignore[no-untyped-call]
        setting = Setting(
            labels=self.labels(split.train),
            epochs=plan.epochs,
            encode_training=lambda: EncodedRows(self.encode(split.train), self.labels(split.train)),
        )
        method.setup(model, setting, torch.Generator().manual_seed(plan.seed + 1_000_000))
        self._optimizer = build_optimizer(model, method, plan.learning_rate)
        self._scheduler = torch.optim.lr_scheduler.StepLR(self._optimizer, plan.decay_every)
        self.best = Best()
        self.epoch = 0
        self.step = 0  # of the epoch
        self.steps = 0  # in all

    def run(self, checkpoint: Path, progress: Callable[[int, int], None]) -> None:
        """Train to the end, from the checkpoint if there is one; the best epoch's weights stay.

        Args:
            checkpoint: The file to go on from, and to write.
            progress: Told the steps that are done, and those of the whole run as it looks now.
        """
        resumed = self._load(checkpoint) if checkpoint.exists() else None
        self._start_epoch()
        if resumed is not None:
            with _refusing_damage(checkpoint):
                self.method.load_state_dict(resumed)
        while self.epoch < self.plan.epochs:
            batches = list(self._batches())
            left = batches[self.step :]
            self.model.train()
            for inputs, (rows, keep, _) in zip(self._read(left), left, strict=True):
                self._step(inputs, rows, keep)
                self.step += 1
                self.steps += 1
                of_epochs = (self.plan.epochs - self.epoch) * len(batches)
                progress(self.steps, self.steps - self.step + of_epochs)
                if self.step < len(batches) and self.steps % self.plan.save_every == 0:
                    self._save(checkpoint)
            self._scheduler.step()
            self.method.on_epoch_end(self.epoch)
            self._validate()
            self.epoch, self.step = self.epoch + 1, 0
            self._start_epoch()  # before it is saved: what is loaded comes after it
            self._save(checkpoint)
        self.best.restore(self.model, self.method)

    @torch.no_grad()
    def _validate(self) -> None:
        rows = self.split.validation
        features, labels = self.encode(rows), self.labels(rows)
        if self.method.trained(self.epoch):
            reached = validate(self.method, EncodedRows(features, labels))
            self.best.keep_better(self.epoch, reached, self.model, self.method)
        self.method.on_validation(features, labels)

    def _start_epoch(self) -> None:
        if self.epoch < self.plan.epochs:
            self.method.on_epoch_start(self.epoch)

    def labels(self, places: Sequence[int] | np.typing.NDArray[np.int64]) -> Tensor:
        """Labels of clips."""
        return torch.tensor([self._clips[place].label for place in places])

    @torch.no_grad()
    def encode(self, places: np.typing.NDArray[np.int64]) -> Features:
        """Features of clips on the CPU, in eval mode; the model is left in the mode it was in."""
        was_training = self.model.training
        self.model.eval()
        self._ranks.share_buffers(self.model.encoders)
        batches = [
            [Reading(int(place)) for place in batch]
            for batch in np.split(places, range(BATCH_SIZE, len(places), BATCH_SIZE))
        ]
        shares = [self._ranks.share(batch) for batch in batches]
        loader = load(self._clips, self._reader, shares, self.plan.workers)
        chunks = [
            self._ranks.gather(self._encode(inputs), len(batch))
            for inputs, batch in zip(loader, batches, strict=True)
        ]
        self.model.train(was_training)
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _batches(self) -> Iterator[tuple[Tensor, Tensor | None, list[Reading]]]:
        """Rows, which modalities are kept, and what to read, of each batch of the epoch."""
        chosen = self.method.epoch_rows(self.epoch)
        rows, keep = chosen.rows, chosen.keep
        seeds = self.plan.seed, self.epoch
        order = torch.Generator().manual_seed(derived_seed(*seeds))
        for start, places in enumerate(batch_places(chosen, order, BATCH_SIZE)):
            readings = [
                Reading(int(self.split.train[row]), (*seeds, start * BATCH_SIZE + number))
                for number, row in enumerate(rows[places].tolist())
            ]
            yield rows[places], None if keep is None else keep[places], readings

    def _read(
        self, batches: Sequence[tuple[Tensor, Tensor | None, list[Reading]]]
    ) -> Iterator[dict[str, Tensor]]:
        shares = [self._ranks.share(readings) for _, _, readings in batches]
        yield from load(self._clips, self._reader, shares, self.plan.workers)

    def _step(self, inputs: dict[str, Tensor], rows: Tensor, keep: Tensor | None) -> None:
        # Dropout in the encoders draws from the global generator: nothing of it has to be kept.
        torch.manual_seed(derived_seed(self.plan.seed, self.steps, 1 + self._ranks.rank))
        features = self._ranks.gather(self._encode(inputs), len(rows))
        labels = self.labels(self.split.train[rows.numpy()])
        self.method.on_batch(rows)
        loss = self.method.loss(keep_only(features, keep), labels)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._ranks.sum_gradients(self.model.encoders)
        self.method.after_backward()
        self._optimizer.step()
        self.method.after_step()

    def _encode(self, inputs: dict[str, Tensor]) -> Features:
        moved = {
            name: inputs[name].to(self._device, non_blocking=True) for name in self.model.modalities
        }
        half = self.plan.precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            features = self.model.encode(moved)
        return {name: feature.float().cpu() for name, feature in features.items()}

    def _save(self, file: Path) -> None:
        """Write everything that the next step depends on; the file is never half there."""
        if self._ranks.rank > 0:
            return
        state = {
            "plan": self._identity(),
            "model": self.model.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "best": vars(self.best),
            "progress": [self.epoch, self.step, self.steps],
        }
        try:
            write_whole(file, lambda opened: torch.save(state, opened))
        except RuntimeError as error:  # torch's own, of a disk that is full
            raise unwritable(file, error) from error

    def _load(self, file: Path) -> dict[str, Any]:
        """Take a checkpoint up, all but the method's state, which is returned."""
        with _refusing_damage(file):
            state = torch.load(file, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or "plan" not in state:
                raise ValueError("it holds no run")
        if state["plan"] != self._identity():
            raise DataError(
                f"{file} is of a run with {state['plan']}, not {self._identity()}; "
                f"run the same command as then, or delete it to start anew"
            )
        with _refusing_damage(file):
            self.model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._scheduler.load_state_dict(state["scheduler"])
            self.best = Best(**state["best"])
            self.epoch, self.step, self.steps = state["progress"]
            method: dict[str, Any] = state["method"]
        return method

    def _identity(self) -> str:
        """What a run must have in common with its checkpoint."""
        plan = self.plan
        return (
            f"{self.method}, protocol {plan.protocol}, {plan.epochs} epochs, learning rate "
            f"{plan.learning_rate}, seed {plan.seed}, {plan.precision}, "
            f"{len(self.split.train)} clips "
            f"{'from the cache' if self._reader.stores else 'from files'}, "
            f"{self._ranks.size} processes"
        )


@contextmanager
def _refusing_damage(file: Path) -> Iterator[None]:
    """For what takes a checkpoint up: whatever it lacks or holds instead, the file is named."""
    try:
        yield
    except Exception as error:  # of pickle, zipfile, torch, ...: whatever damage makes them raise
        raise damaged(file) from error


def derived_seed(*numbers: int) -> int:
    """A seed of its own for each sequence of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def be_deterministic() -> None:
    """Ask for the same numbers every time, on a GPU too; what cannot promise it warns."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
