"""The inputs of a model that is left as it is: which belong to which modality, and their swap."""

from collections.abc import Mapping, Sequence
from typing import Any

from midas_aug.augment import MisalignAugment
from midas_aug.errors import MidasAugError

__all__ = ["MISALIGNED", "InputCollate", "inputs_by_modality"]

MISALIGNED = "misaligned"  # the key of the training batch that carries everything but the inputs


def inputs_by_modality(inputs: Any, augment: MisalignAugment) -> dict[Any, tuple[Any, ...]]:
    """The inputs of the model that belong to each modality.

    Args:
        inputs: A mapping from each modality to one input or several; None: the keys of the
            augmentation.
        augment: The augmentation, whose keys are either the inputs, or names of modalities only.

    Raises:
        MidasAugError: ``inputs`` is no such mapping, or does not go with the augmentation.
    """
    if inputs is None:
        return dict(augment.keys)
    groups = {
        name: (group,) if isinstance(group, str) or not isinstance(group, Sequence) else group
        for name, group in (inputs.items() if isinstance(inputs, Mapping) else ())
    }
    every = [name for group in groups.values() for name in group]
    if not groups or not all(isinstance(name, str) for name in every):
        raise MidasAugError(
            "expected inputs to map each modality to one input of the model or several, such as "
            f"{{'image': 'pixel_values', 'text': ['input_ids', 'attention_mask']}}, got {inputs!r}"
        )
    if set(groups) != set(augment.modalities):
        raise MidasAugError(
            f"expected the inputs of the modalities {augment.modalities!r}, got those of "
            f"{tuple(groups)!r}"
        )
    if len(set(every)) != len(every):
        raise MidasAugError(f"expected each input in one modality, got {inputs!r}")
    only_names = all(group == (name,) for name, group in augment.keys.items())
    if not only_names and not _are_the_keys(groups, augment):
        raise MidasAugError(
            f"expected as inputs the keys of the augmentation, {dict(augment.keys)!r}, got "
            f"{inputs!r}; leave inputs out, or build MisalignAugment with the inputs as modalities"
        )
    return {name: tuple(group) for name, group in groups.items()}


class InputCollate:
    """Collates and augments; the batch stays flat: inputs of the model beside other keys.

    Args:
        augment: The augmentation.
        plain: The collate function itself.
        inputs: The inputs of each modality.
        kept: Keys of a sample that are collated; None: all.
        taken: Inputs that the model takes; None: any.
    """

    def __init__(
        self,
        augment: MisalignAugment,
        plain: Any,
        inputs: Mapping[Any, Sequence[str]],
        *,
        kept: set[Any] | None = None,
        taken: set[str] | None = None,
    ) -> None:
        self.augment = augment
        self.plain = plain
        self.inputs = inputs
        self.kept = kept
        self.taken = taken

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        """Collate ``samples``, and swap the inputs of each modality."""
        batch = dict(self.plain([self._without_unused(sample) for sample in samples]))
        names = [name for group in self.inputs.values() for name in group]
        missing = [name for name in names if name not in batch]
        if missing:
            raise MidasAugError(
                f"expected the inputs {names!r} in a batch, found no {missing!r}; keys that the "
                "model's forward does not name are dropped, unless remove_unused_columns=False"
            )
        if _are_the_keys(self.inputs, self.augment):
            out = self.augment(batch)
            swapped = {name: out[name] for name in names}
        else:  # the augmentation looks for the modalities by name
            groups = self.inputs.items()
            grouped = {key: {name: batch[name] for name in group} for key, group in groups}
            rest = {key: value for key, value in batch.items() if key not in names}
            out = self.augment({**rest, **grouped})
            swapped = {name: out[key][name] for key, group in groups for name in group}
        others = {key: out[key] for key in batch if key not in swapped}
        flat = {  # the inputs first: Accelerate finds the size of a batch at its first tensor
            key: value
            for key, value in (swapped | others).items()
            if self.taken is None or key in self.taken
        }
        return flat | {MISALIGNED: out.with_data({})}

    def _without_unused(self, sample: Any) -> Any:
        if self.kept is None or not isinstance(sample, Mapping):
            return sample
        return {key: value for key, value in sample.items() if key in self.kept}


def _are_the_keys(inputs: Mapping[Any, Sequence[Any]], augment: MisalignAugment) -> bool:
    """Whether the augmentation finds the inputs in a batch by itself."""
    return all(set(group) == set(inputs[name]) for name, group in augment.keys.items())
