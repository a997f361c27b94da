"""The ``collate_fn`` that `MisalignAugment.collate` gives to a DataLoader."""

import pickle
from collections.abc import Callable
from typing import Any, Protocol

from torch.utils.data import default_collate

from midas_aug._checks import check_switch
from midas_aug._dispatch import refuse_dispatch
from midas_aug._rows import as_columns
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError

__all__ = ["Drawing", "MisalignCollate"]


class Drawing(Protocol):
    """What the collate function asks of an augmentation."""

    confidence: Any
    hardness: Any
    target: Any

    @property
    def needs_model(self) -> bool:
        """Whether labelling has to wait for the training loop."""
        ...

    def draw(self, batch: Any, *, materialize: bool) -> MisalignedBatch:
        """Draw without labelling."""
        ...

    def without_provider(self) -> "Drawing":
        """A copy that only draws, for loader workers."""
        ...


class MisalignCollate:
    """Collates samples and augments the batch; picklable, for workers under fork and spawn.

    Where the confidence needs a model, batches are drawn but not labelled, and the model stays in
    the training process.

    Attributes:
        label_later: Whether the training loop has to call ``out.label(...)``.
    """

    def __init__(
        self,
        augment: Drawing,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        materialize: bool = True,
    ) -> None:
        if isinstance(collate_fn, list | tuple):
            raise MidasAugError(
                "expected a collate function for samples, got the samples themselves; pass "
                "collate_fn=augment.collate(), with the parentheses"
            )
        if collate_fn is not None and not callable(collate_fn):
            raise MidasAugError(
                f"expected collate_fn to be a callable (samples) -> batch or None, got "
                f"{type(collate_fn).__name__}; pass DataLoader(collate_fn=augment.collate())"
            )
        self.augment = augment
        self.collate_fn = collate_fn or default_collate
        self.materialize = check_switch(materialize, "materialize")
        self.label_later = augment.needs_model
        if callable(augment.hardness):
            _check_picklable(augment.hardness, "hardness")  # it goes along with every batch
        _check_picklable(augment.target, "target")

    def __call__(self, samples: list[Any]) -> MisalignedBatch:
        """Collate ``samples`` and augment the batch."""
        refuse_dispatch(self)
        if not isinstance(samples, list):
            raise MidasAugError(
                f"expected a list of samples to collate, got {type(samples).__name__}, a batch "
                "already as it seems (DataLoader(batch_size=None)); map augment(batch), or "
                "augment.draw(batch), over the batches instead"
            )
        batch = self.collate_fn(samples)
        if samples and self.collate_fn is default_collate:
            batch = as_columns(batch, samples[0])
        drawn = self.augment.draw(batch, materialize=self.materialize)
        return drawn if self.label_later else label_if_mixed(drawn, self.augment.confidence)

    def __getstate__(self) -> dict[str, Any]:
        refuse_dispatch(self)  # a worker that is spawned does not know who reads its batches
        state = dict(self.__dict__)
        if self.label_later:
            state["augment"] = self.augment.without_provider()  # a model is not sent to workers
        return state


def label_if_mixed(drawn: MisalignedBatch, confidence: Any) -> MisalignedBatch:
    """The batch, labelled where there is something to label."""
    nothing_added = len(drawn.source) == len(drawn.labels)
    return drawn if nothing_added else drawn.label(confidence)


def _check_picklable(part: object, name: str) -> None:
    try:
        pickle.dumps(part)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise MidasAugError(
            f"expected a {name} that pickles, to travel with batches from loader workers, got "
            f"one that does not ({error}); define its functions and classes at the top of a module"
        ) from None
