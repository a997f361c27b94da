"""A data set whose loader can resume in the middle of an epoch, draws included."""

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from midas_aug._stream import check_calls
from midas_aug.augment import MisalignAugment
from midas_aug.errors import MidasAugError
from midas_aug.integrations.module import check_augment

__all__ = ["ResumableDataset"]


class ResumableDataset(Dataset[Any]):
    """A map-style data set that carries the position of the draw stream in its state.

    For loaders that keep the state of the data set in each of their workers, as torchdata's
    ``StatefulDataLoader`` does: the collate function draws in the worker, where only the data set
    is asked for state. An iterable data set with a state of its own adds
    ``augment.state_dict()`` to it.

    Args:
        dataset: The data set; its own state, if it has one, is kept as well.
        augment: The augmentation whose ``collate()`` the same loader has.

    Raises:
        MidasAugError: ``augment`` is no `MisalignAugment`.

    Example:
        >>> from midas_aug import MisalignAugment
        >>> from midas_aug.integrations.loaders import ResumableDataset
        >>> augment = MisalignAugment(("a", "b"), 3, confidence="uniform", seed=0)
        >>> dataset = ResumableDataset([{"a": 1.0, "b": 2.0, "label": 0}], augment)
        >>> dataset[0]["b"], dataset.state_dict()["augment"]
        (2.0, {'enabled': True, 'stream': {'calls': 0}})
    """

    def __init__(self, dataset: Any, augment: MisalignAugment) -> None:
        self.dataset = dataset
        self.augment = check_augment(augment)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def state_dict(self) -> dict[str, Any]:
        """The state of the augmentation, and of the data set where it has one."""
        own = self.dataset.state_dict() if hasattr(self.dataset, "state_dict") else None
        return {"augment": self.augment.state_dict(), "dataset": own}

    def load_state_dict(self, state: Any) -> None:
        """Go on where ``state`` was taken.

        Raises:
            MidasAugError: ``state`` is not what `state_dict` gives; nothing is changed then.
        """
        calls, own = _read_state(state)
        if own is not None and not hasattr(self.dataset, "load_state_dict"):
            raise MidasAugError(
                "expected a data set that takes a state with load_state_dict(), got "
                f"{type(self.dataset).__name__} and a state of {type(own).__name__}; wrap the data "
                "set that the state was taken of"
            )
        check_calls(calls)  # before the data set has taken anything
        if own is not None:
            self.dataset.load_state_dict(own)
        # Not the switch, which is one for all workers and may have been turned since.
        self.augment.stream.set_calls(calls)


def _read_state(state: Any) -> tuple[Any, Any]:
    """The number of calls, and the state of the data set."""
    found = state
    for key in ("augment", "stream", "calls"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if found is None or "dataset" not in state:
        got = list(state) if isinstance(state, Mapping) else type(state).__name__
        raise MidasAugError(
            "expected the state of a ResumableDataset, {'augment': {'stream': {'calls': int}}, "
            f"'dataset': ...}}, got {got!r}; pass what state_dict() gave"
        )
    return found, state["dataset"]
