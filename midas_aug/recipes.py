"""Whole settings in one line: augmentation and loss that fit together, at feature level.

| recipe | labels of the mix | α, hard samples, warm-up | unimodal losses |
| --- | --- | --- | --- |
| `paper` | shared by confidence in each sample | yes | yes |
| `skill` | shared by measured skill, one number a modality | no | yes |
| `plain_swap` | shared equally | no | no |

`no_harm` runs a training with and without misaligned samples and keeps the better one.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from midas_aug._arrays import Array
from midas_aug._checks import check_number
from midas_aug._hardness import HardnessSetting
from midas_aug._settings import keys_by_modality
from midas_aug.augment import MisalignAugment
from midas_aug.confidence import SkillConfidence
from midas_aug.errors import MidasAugError
from midas_aug.functional.plan import Swap
from midas_aug.loss import MidasLoss
from midas_aug.targets import Target

__all__ = ["Choice", "Recipe", "no_harm", "paper", "plain_swap", "skill"]

Result = TypeVar("Result")
Label = Hashable | Callable[[Any], Any]
Modalities = Sequence[Hashable] | Mapping[Any, Hashable | Sequence[Hashable]]


class Recipe(NamedTuple):
    """An augmentation, and the loss that goes with it."""

    augment: MisalignAugment
    criterion: MidasLoss


def paper(
    modalities: Modalities,
    num_classes: int | None = None,
    *,
    target: Target | None = None,
    warmup_epochs: int,
    hardness: HardnessSetting = "cosine",
    misaligned_weight: float = 1.0,
    label: Label = "label",
    seed: int | None = None,
) -> Recipe:
    """MIDAS as published (Alg. 1; A.2 for more than two modalities).

    Args:
        modalities: Batch keys, or names with their keys; each holds features.
        num_classes: C, short for ``target=ClassIndex(C)``.
        target: What a label is: one of `midas_aug.targets`.
        warmup_epochs: E_w: 10 of 70 epochs on the paper's audio-visual sets, 2 of 30 on Food-101.
            Call ``criterion.set_epoch(epoch)`` at the start of every epoch.
        hardness: As in `MisalignAugment`.
        misaligned_weight: λ.
        label: As in `MisalignAugment`.
        seed: As in `MisalignAugment`.

    Raises:
        MidasAugError: An argument is out of range.

    Example:
        >>> import torch
        >>> from midas_aug import recipes
        >>> augment, criterion = recipes.paper(("audio", "video"), 3, warmup_epochs=0)
        >>> features = {"audio": torch.rand(4, 8), "video": torch.rand(4, 6)}
        >>> unimodal = {"audio": torch.rand(4, 3), "video": torch.rand(4, 3)}
        >>> out = augment(features, torch.tensor([0, 1, 2, 0]), unimodal_logits=unimodal)
        >>> fusion = torch.nn.Linear(14, 3)
        >>> logits = fusion(torch.cat([out["audio"], out["video"]], dim=1))
        >>> criterion(logits, out, unimodal_logits=unimodal).shape
        torch.Size([])
    """
    augment = MisalignAugment(
        modalities,
        num_classes,
        target=target,
        label=label,
        confidence="logits",
        swap=_swap_of(modalities),
        hardness=hardness,
        misaligned_weight=misaligned_weight,
        seed=seed,
    )
    return Recipe(augment, MidasLoss(len(augment.modalities), warmup_epochs=warmup_epochs))


def skill(
    modalities: Modalities,
    num_classes: int | None = None,
    *,
    target: Target | None = None,
    class_counts: Array | None = None,
    misaligned_weight: float = 1.0,
    unimodal_weight: float = 1.0,
    label: Label = "label",
    seed: int | None = None,
) -> Recipe:
    """Labels shared by measured skill: no α, no hard-sample weights, no warm-up.

    The provider is ``augment.confidence``. After each validation, ``update(unimodal_logits,
    labels)`` it with the batches, then ``step()``. Before the first one it is a plain swap with
    unimodal losses.

    Args:
        modalities: Batch keys.
        num_classes: C, short for ``target=ClassIndex(C)``.
        target: What a label is: one of `midas_aug.targets`.
        class_counts: As in `SkillConfidence`.
        misaligned_weight: λ.
        unimodal_weight: Of the sum of the unimodal losses, as in `MidasLoss`.
        label: As in `MisalignAugment`.
        seed: As in `MisalignAugment`.

    Raises:
        MidasAugError: An argument is out of range.

    Example:
        >>> import torch
        >>> from midas_aug import recipes
        >>> augment, criterion = recipes.skill(("audio", "video"), 3)
        >>> labels = torch.arange(6) % 3
        >>> knows, does_not = 9 * torch.nn.functional.one_hot(labels).float(), torch.zeros(6, 3)
        >>> augment.confidence.update({"video": does_not, "audio": knows}, labels)
        >>> augment.confidence.step()
        >>> out = augment({"audio": torch.rand(6, 8), "video": torch.rand(6, 4)}, labels)
        >>> out.shares[6]  # the label of the mix is that of the modality that knows
        tensor([0.9808, 0.0192])
    """
    names = tuple(keys_by_modality(modalities))
    confidence = SkillConfidence(names, num_classes, target=target, class_counts=class_counts)
    augment = MisalignAugment(
        modalities,
        num_classes,
        target=target,
        label=label,
        confidence=confidence,
        hardness=None,
        misaligned_weight=misaligned_weight,
        seed=seed,
    )
    criterion = MidasLoss(len(names), weak_modality=None, unimodal_weight=unimodal_weight)
    return Recipe(augment, criterion)


def plain_swap(
    modalities: Modalities,
    num_classes: int | None = None,
    *,
    target: Target | None = None,
    misaligned_weight: float = 1.0,
    label: Label = "label",
    seed: int | None = None,
) -> Recipe:
    """The control: the same misaligned samples as `paper`, equal shares, no weights, no heads.

    Args:
        modalities: Batch keys.
        num_classes: C, short for ``target=ClassIndex(C)``.
        target: What a label is: one of `midas_aug.targets`.
        misaligned_weight: λ.
        label: As in `MisalignAugment`.
        seed: As in `MisalignAugment`.

    Raises:
        MidasAugError: An argument is out of range.

    Example:
        >>> import torch
        >>> from midas_aug import recipes
        >>> augment, criterion = recipes.plain_swap(("audio", "video"), 3)
        >>> features = {"audio": torch.rand(4, 8), "video": torch.rand(4, 6)}
        >>> out = augment(features, torch.tensor([0, 1, 2, 0]))
        >>> criterion(torch.zeros(12, 3), out).item() == 2 * torch.tensor(3.0).log().item()
        True
    """
    augment = MisalignAugment(
        modalities,
        num_classes,
        target=target,
        label=label,
        confidence="uniform",
        swap=_swap_of(modalities),
        hardness=None,
        misaligned_weight=misaligned_weight,
        seed=seed,
    )
    return Recipe(
        augment, MidasLoss(len(augment.modalities), weak_modality=None, unimodal_weight=0)
    )


@dataclass(frozen=True)
class Choice(Generic[Result]):
    """What `no_harm` kept.

    Attributes:
        kept: What the better run returned.
        misaligned_weight: Its λ: 0 where misaligned samples did not help.
        without: The validation score with λ = 0.
        augmented: The validation score with λ.
    """

    kept: Result
    misaligned_weight: float
    without: float
    augmented: float


def no_harm(
    train: Callable[[float], tuple[Result, float]], misaligned_weight: float = 1.0
) -> Choice[Result]:
    """Train with λ = 0 and with λ, and keep what is better on validation.

    The price is a second run. It guards validation rows: on test rows the choice can still be the
    worse one, the more easily the fewer validation rows there are.

    Args:
        train: Given λ, trains from scratch and returns the model (or anything) and its score on
            validation rows, higher is better. The same seed in both runs makes them comparable.
        misaligned_weight: λ of the second run.

    Returns:
        What was kept. With equal scores, or a score of λ that is NaN, the run without.

    Raises:
        MidasAugError: λ is not above 0, ``train`` returns something else, or neither run has a
            score.

    Example:
        >>> from midas_aug.recipes import no_harm
        >>> choice = no_harm(lambda weight: (f"model at {weight}", 0.81 if weight else 0.84))
        >>> choice.kept, choice.misaligned_weight
        ('model at 0.0', 0.0)
    """
    why = "λ = 0 is the run that it is compared with"
    weight = check_number(misaligned_weight, "misaligned_weight (λ)", 0, why, exclusive=True)
    if not callable(train):
        raise MidasAugError(
            f"expected train to be a function (λ) -> (model, score), got {type(train).__name__}"
        )
    kept, without = _scored(train(0.0))
    other, augmented = _scored(train(weight))
    if math.isnan(without) and math.isnan(augmented):
        raise MidasAugError("expected a validation score of one of the two runs, got NaN twice")
    better = augmented > without or math.isnan(without)
    return Choice(
        kept=other if better else kept,
        misaligned_weight=weight if better else 0.0,
        without=float(without),
        augmented=float(augmented),
    )


def _swap_of(modalities: Modalities) -> Swap:
    """The paper's way to swap: A.2 for more than two modalities."""
    return "each" if len(keys_by_modality(modalities)) == 2 else "permute"


def _scored(result: Any) -> tuple[Any, float]:
    """What was trained, and its score as a number; a tensor without axes is one."""
    if isinstance(result, tuple) and len(result) == 2:
        try:
            return result[0], float(result[1])
        except (TypeError, ValueError, RuntimeError):
            pass
    raise MidasAugError(
        f"expected train(λ) to return what was trained and its validation score, got {result!r}; "
        "return (model, accuracy), a number that is higher for the better run"
    )
