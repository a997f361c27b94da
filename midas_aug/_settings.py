"""The arguments of `MisalignAugment`, checked once, at construction."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from midas_aug._arrays import is_array, is_integer
from midas_aug._checks import check_number, check_switch
from midas_aug._replay import recomputing
from midas_aug.confidence.base import as_provider
from midas_aug.confidence.simple import UniformConfidence
from midas_aug.errors import MidasAugError
from midas_aug.targets import ClassIndex, Target

__all__ = [
    "TWICE",
    "check_keep",
    "check_label",
    "check_present_key",
    "check_seed",
    "check_weight",
    "keys_by_modality",
    "read_state",
    "refuse_fixed",
    "refuse_repeated",
    "resolve_confidence",
    "stray_keys",
]

TWICE = (
    "expected a batch that is not augmented, got one that is augmented already; augment once: in "
    "the collate function or in the loop"
)

Keys = Mapping[Any, tuple[Any, ...]]

# What other things are made from at construction, which would not follow.
FIXED = frozenset(
    {
        "confidence",
        "hardness",
        "keep",
        "keys",
        "label",
        "modalities",
        "num_classes",
        "pairing",
        "present",
        "seed",
        "swap",
        "target",
        "validate",
    }
)


# Keys that belong to others though they do not begin with their names, as processors write them.
TOKENS, SOUND, PIXELS = ("input_ids", "ids"), ("input_values", "input_features"), ("pixel_values",)
COMPANIONS = {
    "attention_mask": TOKENS + SOUND,
    "token_type_ids": TOKENS,
    "position_ids": TOKENS,
    "mask": TOKENS,
    "feature_attention_mask": SOUND,
    "pixel_mask": PIXELS,
    "pixel_attention_mask": PIXELS,
    "image_grid_thw": PIXELS,
    "image_sizes": PIXELS,
}
PARTS = ("_mask", "_masks", "_lengths", "_offsets")
LOOSE = frozenset({"mask", "masks", "lengths", "offsets"})


def keys_by_modality(modalities: Any) -> dict[Any, tuple[Any, ...]]:
    """The batch keys of each modality, by its name."""
    if isinstance(modalities, Mapping):
        keys = {
            name: tuple(group) if isinstance(group, list | tuple) else (group,)
            for name, group in modalities.items()
        }
    elif isinstance(modalities, str | bytes) or not isinstance(modalities, Sequence):
        keys = {}
    elif not all(isinstance(name, Hashable) for name in modalities):
        raise MidasAugError(
            f"expected modalities to be batch keys, got {modalities!r}; for several keys of one "
            "modality pass a mapping, such as {'image': 'pixels', 'text': ['ids', 'mask']}"
        )
    else:
        keys = {name: (name,) for name in modalities}
        if len(keys) != len(modalities):
            raise MidasAugError(f"expected modalities to be different keys, got {modalities!r}")
    every = [key for group in keys.values() for key in group]
    strange = [key for key in every if not isinstance(key, Hashable)]
    if strange:
        raise MidasAugError(
            f"expected the keys of a modality as one key, or a list of keys, got {strange[0]!r} in "
            f"{modalities!r}"
        )
    if len(keys) < 2 or not all(keys.values()):
        raise MidasAugError(
            "expected modalities to be a sequence of at least two batch keys, such as "
            "('image', 'text'), or a mapping from names to keys, such as {'image': 'pixels', "
            f"'text': ['ids', 'mask']}}, got {modalities!r}"
        )
    if len(set(every)) != len(every):
        raise MidasAugError(f"expected each key in one modality, got {modalities!r}")
    return keys


def check_label(label: Any, keys: Keys) -> Any:
    """The key of the labels, or a callable that finds them."""
    if not isinstance(label, Hashable) or is_array(label):
        raise MidasAugError(
            f"expected label to be a batch key or a callable (batch) -> labels, got {label!r}; "
            "labels themselves go into the call: augment(batch, labels)"
        )
    if not callable(label) and any(label in group for group in keys.values()):
        raise MidasAugError(
            f"expected label to be another key than the modalities {tuple(keys)!r}, got {label!r}"
        )
    return label


def check_present_key(present: Any, keys: Keys, label: Any) -> Any:
    """The key of the mask of present modalities, a callable that finds it, or None."""
    if not isinstance(present, Hashable) or is_array(present):
        raise MidasAugError(
            f"expected present to be a batch key, a callable or None, got {present!r}; the mask "
            "itself goes into the call: augment(batch, present=mask)"
        )
    if present is None or callable(present):
        return present
    if any(present in group for group in keys.values()):
        raise MidasAugError(
            f"expected present to be another key than the modalities {tuple(keys)!r}, got "
            f"{present!r}; it names where a batch says which modalities its rows have"
        )
    if present == label:
        raise MidasAugError(
            f"expected present to be another key than the label, got {present!r} for both; it "
            "names where a batch says which modalities its rows have"
        )
    return present


def check_keep(keep: Any, keys: Keys) -> tuple[Any, ...]:
    """The keys that are passed through."""
    if isinstance(keep, str) or not isinstance(keep, Iterable):
        raise MidasAugError(
            "expected keep to be a sequence of batch keys, such as ('class_weights',), got "
            f"{keep!r}"
        )
    kept = tuple(keep)
    clash = [key for key in kept if any(key in group for group in keys.values())]
    if clash:
        raise MidasAugError(
            f"expected keep to name keys that are no modality, got {clash!r}; a modality is swapped"
        )
    return kept


def check_seed(seed: Any) -> int | None:
    """The seed as an int, or None."""
    if seed is None:
        return None
    if not is_integer(seed):
        raise MidasAugError(f"expected seed to be an integer or None, got {seed!r}")
    return int(seed)


def check_weight(weight: Any) -> float:
    """λ as a float."""
    why = "0 leaves the misaligned rows without a loss, 1 is the paper's"
    return check_number(weight, "misaligned_weight (λ)", 0, why)


def read_state(state: Any) -> tuple[bool, Any]:
    """``enabled`` and the number of calls of what `MisalignAugment.state_dict` gave."""
    try:
        enabled, calls = state["enabled"], state["stream"]["calls"]
    except (KeyError, TypeError, IndexError):
        found = list(state) if isinstance(state, Mapping) else type(state).__name__
        raise MidasAugError(
            "expected the state of a MisalignAugment, {'enabled': bool, 'stream': {'calls': int}}, "
            f"got {found!r}; pass what augment.state_dict() gave"
        ) from None
    return check_switch(enabled, "enabled"), calls


def refuse_fixed(name: str, value: Any) -> None:
    """Raise for a setting that cannot be changed afterwards."""
    if name in FIXED:
        raise MidasAugError(
            f"expected {name} to be given to MisalignAugment(...), got it set afterwards, to "
            f"{value!r}; build another augmentation"
        )


def refuse_repeated() -> None:
    """Raise where a forward pass is run again, to which a generator gives other draws."""
    if recomputing():
        raise MidasAugError(
            "expected seeded draws in a forward pass that is repeated inside a backward pass "
            "(activation checkpointing), got a generator, which has moved on since; build the "
            "augmentation with seed=, or pass plan="
        )


def resolve_confidence(confidence: Any, modalities: tuple[Any, ...], target: Target) -> Any:
    """``"logits"``, or the provider."""
    if isinstance(confidence, str):
        if confidence == "logits":
            return confidence
        if confidence == "uniform":
            return UniformConfidence(modalities)
    if isinstance(confidence, str) or not callable(confidence):
        raise MidasAugError(
            "expected confidence to be 'logits', 'uniform' or a provider (batch, labels) -> "
            f"(N, M), got {confidence!r}"
        )
    provider = as_provider(confidence)
    columns = modalities if provider.modalities is None else tuple(provider.modalities)
    if len(columns) != len(modalities):
        raise MidasAugError(
            f"expected a confidence provider for the {len(modalities)} modalities {modalities!r}, "
            f"got one for {len(columns)}, {columns!r}; build it with one name a modality"
        )
    if columns != modalities and set(columns) == set(modalities):
        raise MidasAugError(
            f"expected the confidence provider's modalities in the order {modalities!r}, got "
            f"{columns!r}; build both with the same order, or shares go to the wrong modality"
        )
    built = getattr(provider, "target", target)
    if built is None or isinstance(built, Target):
        _check_provider_target(provider, built, target)
    return provider


def _check_provider_target(provider: Any, built: Target | None, target: Target) -> None:
    """Raise if a provider reads labels of another kind."""
    if built is None:
        fits = isinstance(target, ClassIndex)
    else:
        fits = type(built) is type(target) and built.n_outputs == target.n_outputs
    if fits:
        return
    name = type(provider).__name__
    reads = "class indices" if built is None else repr(built)
    raise MidasAugError(
        f"expected a confidence for {target!r}, got a {name} for {reads}; give both the same "
        "target, or choose a confidence that reads no labels, such as 'uniform'"
    )


def stray_keys(batch: Iterable[Hashable], keys: Keys, known: set[Any]) -> list[tuple[str, Any]]:
    """Keys that stay behind though they are named after a modality, each with its name.

    The name is None where a key could belong to any modality.
    """
    found: list[tuple[str, Any]] = []
    for key in batch:
        if isinstance(key, str) and key not in known:
            owners = _owners(key, keys)
            if owners or key.endswith(PARTS) or key in LOOSE:
                found.append((key, owners[0] if owners else None))
    return found


def _owners(key: str, keys: Keys) -> list[Any]:
    """The modalities that a key is named after, the likeliest first."""
    belongs = COMPANIONS.get(key, ())
    named = [name for own in belongs for name, group in keys.items() if own in group]
    stems = [(prefix, name) for name, group in keys.items() for prefix in (name, *group)]
    fitting = [
        (len(prefix), name)
        for prefix, name in stems
        if isinstance(prefix, str) and key.startswith(f"{prefix}_")
    ]
    return named + [name for _, name in sorted(fitting, key=lambda one: -one[0])]
