"""A training log that the loss itself tells its steps to, where a trainer owns the loop."""

from types import MethodType
from typing import Any, Protocol

from torch import Tensor, nn

from midas_aug.errors import MidasAugError
from midas_aug.integrations.module import find_losses
from midas_aug.loss import LossTerms, MidasLoss

__all__ = ["EpochLog", "attach_log", "check_log", "detach_log", "end_epoch", "the_loss"]


class EpochLog(Protocol):
    """What is asked of a log: `midas_aug.diagnostics.TrainingLog` has it."""

    def update(self, out: Any, *, logits: Any, terms: LossTerms, criterion: Any) -> None:
        """Add a step."""
        ...

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Close an epoch; its scores, and its number as ``epoch``."""
        ...


def check_log(log: Any) -> Any:
    """A log as it is, or None.

    Raises:
        MidasAugError: It is something else, such as True, or the class in place of a log.
    """
    methods = (getattr(log, name, None) for name in ("update", "end_epoch"))
    if log is None or (not isinstance(log, type) and all(map(callable, methods))):
        return log
    raise MidasAugError(
        f"expected log to be a TrainingLog or None, got {log!r}; pass one that is built, such as "
        "midas_aug.diagnostics.TrainingLog(augment.modalities)"
    )


def attach_log(criterion: MidasLoss, log: EpochLog) -> None:
    """Have a loss add each training step to a log, until `detach_log`; in eval mode it adds none.

    The loss is computed in parts meanwhile, which sum to it up to rounding. Not for a loss that is
    compiled.

    Args:
        criterion: Of the class `MidasLoss` itself, or with no ``forward`` of its own.
        log: A `midas_aug.diagnostics.TrainingLog`.

    Example:
        >>> import torch
        >>> from midas_aug import MidasLoss, MisalignAugment
        >>> from midas_aug.diagnostics import TrainingLog
        >>> from midas_aug.integrations.logs import attach_log
        >>> criterion, log = MidasLoss(2), TrainingLog(("a", "b"))
        >>> attach_log(criterion, log)
        >>> augment = MisalignAugment(("a", "b"), 2, confidence="uniform", seed=0)
        >>> out = augment({"a": torch.ones(2, 1), "b": torch.ones(2, 1)}, torch.tensor([0, 1]))
        >>> loss = criterion(torch.zeros(6, 2), out)
        >>> log.end_epoch(0)["share.a"]
        0.5
    """
    check_log(log)

    def compute(self: Any, logits: Any, out: Any, unimodal_logits: Any = None) -> LossTerms:
        terms: LossTerms = type(self).compute(self, logits, out, unimodal_logits)
        if self.training:
            log.update(out, logits=logits, terms=terms, criterion=self)
        return terms

    def forward(self: Any, logits: Any, out: Any, unimodal_logits: Any = None) -> Tensor:
        total: Tensor = self.compute(logits, out, unimodal_logits).total
        return total

    # Methods of the object: a copy of the loss gets its own, bound to the copy.
    vars(criterion).update(
        compute=MethodType(compute, criterion), forward=MethodType(forward, criterion)
    )


def detach_log(criterion: MidasLoss) -> None:
    """Undo `attach_log`, if it was called."""
    for name in ("compute", "forward"):
        vars(criterion).pop(name, None)


def the_loss(model: nn.Module) -> MidasLoss:
    """The one `MidasLoss` of ``model``, for a log.

    Raises:
        MidasAugError: There is none, or there are several.
    """
    losses = find_losses(model)
    if len(losses) > 1:
        raise MidasAugError(
            f"expected one MidasLoss among the modules of {type(model).__name__} for log=, got "
            f"{len(losses)}; attach a log to each with attach_log"
        )
    return losses[0]


def end_epoch(log: EpochLog, epoch: int) -> dict[str, float]:
    """Close an epoch; its scores by their names in other logs, as in ``midas/alpha.audio``."""
    record = log.end_epoch(epoch)
    return {f"midas/{name}": value for name, value in record.items() if name != "epoch"}
