"""The ``collate_fn`` that `MisalignAugment.collate` gives to a DataLoader."""

import copy
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.utils.data import default_collate

from midas_aug.batch import MisalignedBatch
from midas_aug.confidence.base import needs_model
from midas_aug.errors import MidasAugError

if TYPE_CHECKING:
    from midas_aug.augment import MisalignAugment

__all__ = ["MisalignCollate"]


class MisalignCollate:
    """Collates samples and augments the batch; picklable, for workers under fork and spawn.

    Where the confidence needs a model, batches are drawn but not labelled, and the model stays in
    the training process.
    """

    def __init__(
        self,
        augment: "MisalignAugment",
        collate_fn: Callable[[list[Any]], Any] | None = None,
        materialize: bool = True,
    ) -> None:
        self.augment = augment
        self.collate_fn = collate_fn or default_collate
        self.materialize = materialize
        self.label_later = augment.confidence == "logits" or needs_model(augment.confidence)
        if callable(augment.hardness):
            _check_picklable(augment.hardness)  # it goes along with every batch

    def __call__(self, samples: list[Any]) -> MisalignedBatch:
        """Collate ``samples`` and augment the batch."""
        return self.augment._augment(
            self.collate_fn(samples),
            None,
            materialize=self.materialize,
            label_later=self.label_later,
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.label_later:
            # The model is not sent to workers, which only draw.
            state["augment"] = copy.copy(self.augment)
            state["augment"].confidence = "logits"
        return state


def _check_picklable(hardness: object) -> None:
    try:
        pickle.dumps(hardness)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise MidasAugError(
            f"expected a hardness that pickles, to travel with batches from loader workers, got "
            f"one that does not ({error}); define it as a function at the top of a module"
        ) from None
