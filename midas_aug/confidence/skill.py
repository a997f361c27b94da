"""One number a modality: how much its classifier knows, measured on held-out data."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from midas_aug._arrays import Array, as_labels, as_tensor, is_integer, like, may_read_values
from midas_aug._checks import check_count, check_number
from midas_aug._logits import warn_of_probabilities
from midas_aug._present import as_present
from midas_aug._ranks import several_ranks
from midas_aug._shared import SharedNumbers
from midas_aug._state import Mirror, StatefulModule
from midas_aug.confidence.base import (
    ConfidenceProvider,
    UnimodalLogits,
    check_modalities,
    check_unimodal_logits,
)
from midas_aug.errors import MidasAugError
from midas_aug.functional import shares_by_source
from midas_aug.functional.skill import as_counts, nll_sums, skill_from_sums
from midas_aug.targets import ClassIndex, Target, resolve_target

__all__ = ["FitUnimodal", "SkillConfidence"]

FitUnimodal: TypeAlias = Callable[[Tensor, Tensor], UnimodalLogits]


class SkillConfidence(StatefulModule, ConfidenceProvider):
    """Labels shared by the measured skill of each modality, not by confidences sample by sample.

    Not in the paper. Heads that memorise their training rows are sure of everything, and a modality
    without signal still gets half of every label. Skill (`midas_aug.functional.skill_score`) is
    measured on rows that the heads were not trained on: 0 for no better than the class
    frequencies, 1 for perfect. After each validation, ``update`` with its batches, then ``step``.
    Until the first one every skill is 1, which makes a plain swap. Use it with λ = 1, no α, no
    hard-sample weights and no warm-up (`midas_aug.recipes.skill` sets all of them).

    Runs in loader workers, running ones included: they read the skill from shared memory.

    Args:
        modalities: The names of the modalities, in order.
        num_classes: C, short for ``target=ClassIndex(C)``.
        target: What a label is. The skill is then measured against its best constant prediction.
        ema: Weight of a new measurement; the first one replaces the start value.
        eps: Added to each skill, so that a share is never 0.
        class_counts: ``(C,)`` rows a class in the training set. None: those of the rows that were
            measured.

    Attributes:
        skill: ``(M,)`` float32 buffer.

    Raises:
        MidasAugError: An argument is out of range; a call's logits do not fit.

    Example:
        >>> import torch
        >>> from midas_aug.confidence import SkillConfidence
        >>> skill = SkillConfidence(("image", "text"), num_classes=2)
        >>> labels = torch.tensor([0, 1, 0, 1])
        >>> knows = 9 * torch.nn.functional.one_hot(labels).float()
        >>> skill.update([knows, torch.zeros(4, 2)], labels)
        >>> skill.step()
        >>> skill.skill
        tensor([1., 0.])
        >>> skill({}, labels)[0]  # plus eps
        tensor([1.0200, 0.0200])
    """

    modalities: tuple[Any, ...]
    needs_model = False  # a worker does not need one: the skill lies in shared memory
    skill: Tensor
    steps: Tensor
    class_counts: Tensor | None

    def __init__(
        self,
        modalities: Sequence[Hashable],
        num_classes: int | None = None,
        *,
        target: Target | None = None,
        ema: float = 0.5,
        eps: float = 0.02,
        class_counts: Array | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.modalities = check_modalities(modalities)
        self.target = resolve_target(num_classes, target)
        self.num_classes = self.target.num_classes
        self.ema = check_number(ema, "ema", 0, "1 forgets what was measured before", exclusive=True)
        if self.ema > 1:
            raise MidasAugError(f"expected ema in (0, 1], got {ema!r}; 1 is the newest alone")
        self.eps = check_number(eps, "eps", 0, "0.02 is the default", exclusive=True)
        # What workers read, on the CPU wherever the buffers are.
        ones = torch.ones(len(self.modalities), dtype=torch.float32, device="cpu")
        self._shared = SharedNumbers(ones)
        self._published = Mirror(self._shared.write, None)
        # A measurement under way. No buffers: DistributedDataParallel overwrites these with those
        # of rank 0, and every rank validates on rows of its own.
        self._seen: list[Tensor] | None = None
        self.register_state("skill", ones.clone, lowest=0)
        self.register_state("steps", partial(torch.zeros, (), dtype=torch.int64), lowest=0)
        if class_counts is None:
            self.register_buffer("class_counts", None)
        else:
            if not isinstance(self.target, ClassIndex):
                raise MidasAugError(
                    f"expected no class_counts for {self.target!r}, got some; they are of class "
                    "indices: leave them out, and the rows that are measured tell"
                )
            counts = as_counts(class_counts, self.target.num_classes).cpu()
            counts = counts.clone() if counts.is_floating_point() else counts.long()
            self.register_state("class_counts", counts.clone, lowest=0)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"{self.modalities!r}, {self.target!r}, ema={self.ema}, eps={self.eps}"

    @torch.no_grad()
    def update(
        self, unimodal_logits: UnimodalLogits, labels: Array, *, present: Any = None
    ) -> None:
        """Take in a batch of held-out rows; the skill changes with the next `step`.

        Args:
            unimodal_logits: ``(N, C)`` of each modality, by name or in order, from heads in eval
                mode.
            labels: ``(N, …)``, as the target has them; ignored rows are left out.
            present: Which modalities a row has, as in `MisalignAugment.draw`; a modality is
                measured on the rows that have it. None: all.

        Raises:
            MidasAugError: Shapes do not fit, or a row that counts has no likelihood: its logits
                hold NaN. That is looked at on the CPU only; logits on an accelerator give their
                modality a skill of 0. Nothing of the batch is taken in then.
        """
        checked, names = self.target.check(labels), self.modalities
        logits = check_unimodal_logits(unimodal_logits, names, len(checked), self.target)
        if self.target.takes_temperature:
            warn_of_probabilities(
                self, logits, names, stacklevel=3, target=self.target
            )  # behind no_grad
        counted = (self.target.label_ids(checked) >= 0).expand(len(names), -1)
        if present is not None:
            counted = counted & as_present(present, names, len(checked)).t()
        readable = self.target.filled(checked)[:, None]
        sums = [
            nll_sums(
                scores.detach(),
                lambda found: self.target.log_likelihoods(found, readable),
                rows,
                self.target.temperatures,
            )
            for scores, rows in zip(logits, counted, strict=True)
        ]
        for name, scores, found, rows in zip(names, logits, sums, counted, strict=True):
            # NaN at every temperature: large logits alone overflow at the small ones.
            if may_read_values(found) and bool(found.isnan().all()):
                self._refuse(name, scores, readable, rows)
        statistics = [self.target.statistics(checked, rows) for rows in counted]
        new = [torch.stack(sums), torch.stack(statistics), counted.sum(dim=1)]
        seen = self._seen
        self._seen = new if seen is None else [a + b for a, b in zip(seen, new, strict=True)]

    def _refuse(self, name: Any, scores: Tensor, labels: Tensor, rows: Tensor) -> None:
        """Raise for rows that have no likelihood."""
        found = self.target.log_likelihoods(scores / max(self.target.temperatures), labels)[:, 0]
        raise MidasAugError(
            f"expected unimodal_logits[{name!r}] that are numbers, got NaN or infinity in "
            f"{int((found.isnan() & rows).sum())} of {int(rows.sum())} rows; a head has diverged "
            "(lower the learning rate, or look at its inputs), or leave these rows out"
        )

    @torch.no_grad()
    def step(self) -> None:
        """End a validation: move the skill to what the batches since the last step tell.

        In a distributed run the ranks add up what they saw, so every rank has to call this, also
        one without a batch. Without any row with a label the skill stays as it is.
        """
        self.ready()
        device, n_modalities = self.skill.device, len(self.modalities)
        nothing = self.target.unlabelled(0, device)
        empty = self.target.statistics(nothing, torch.zeros(0, dtype=torch.bool, device=device))
        total = [
            torch.zeros(
                n_modalities, len(self.target.temperatures), dtype=torch.float32, device=device
            ),
            empty.repeat(n_modalities, 1),
            torch.zeros(n_modalities, dtype=torch.int64, device=device),
        ]
        if self._seen is not None:
            total = [a + b.to(device) for a, b in zip(total, self._seen, strict=True)]
        self._seen = None
        if several_ranks():
            for part in total:
                torch.distributed.all_reduce(part)
        sums, statistics, rows = total
        if self.class_counts is None:
            chance, floor = self.target.best_constant(statistics, rows)
        else:
            chance, floor = self.target.best_constant(self.class_counts, rows)
        measured = skill_from_sums(sums, rows, chance, floor)
        keep = (self.steps > 0).to(torch.float32) * (1 - self.ema)
        moved = keep * self.skill + (1 - keep) * measured
        self.skill.copy_(torch.where(rows > 0, moved, self.skill))
        self.steps.add_(rows.sum() > 0)
        self.on_new_state()

    def cross_fit(
        self,
        fit: FitUnimodal,
        labels: Array,
        *,
        folds: int = 5,
        groups: Array | None = None,
        seed: int = 0,
    ) -> None:
        """Measure on the training rows themselves, each by a model that has not seen it; then step.

        For data without a validation split.

        Args:
            fit: ``(training, held_out) -> unimodal_logits``: trains a classifier a modality on the
                rows ``training`` (int64 numbers) and gives its logits of the rows ``held_out``.
            labels: ``(N, …)``, as the target has them; ignored rows are in no fold.
            folds: K. Each has its part of every class; ``fit`` is called K times.
            groups: ``(N,)`` integers; rows of one group are held out together (and the classes
                then fall as they may).
            seed: Of the folds.

        Raises:
            MidasAugError: There are fewer than K rows, or groups, to deal.
        """
        check_count(folds, "folds")
        if not is_integer(seed):
            raise MidasAugError(f"expected seed to be an integer, got {seed!r}")
        checked = self.target.check(labels).cpu()
        ids = self.target.label_ids(checked)
        of_row = None if groups is None else as_labels(groups, "groups").cpu()
        for training, held_out in _folds(ids, folds, of_row, int(seed) % (1 << 63)):
            self.update(fit(training, held_out), checked[held_out])
        self.step()

    def shares(self, confidence: Any, source: Any) -> Any:
        """Shares ``(S, M)``: the modalities that were kept have one vote, not one each."""
        return shares_by_source(confidence, source)

    def shares_of_present(self, confidence: Any, source: Any, present: Any) -> Any:
        """`shares` where rows lack modalities: what is absent has no part in its source's vote."""
        return shares_by_source(confidence, source, present=present)

    @torch.no_grad()
    def forward(self, batch: Any, labels: Any) -> Any:
        """Skill plus ``eps``, the same for every row, ``(N, M)``."""
        rows = as_tensor(labels, "labels")
        if torch.compiler.is_compiling() or rows.device.type != "cpu":
            skill = self.skill
        else:
            # A worker has the buffer as it was when it started, which is news only where nothing
            # was told of it until then. On a device, a worker must not touch it.
            if get_worker_info() is None or self.skill.device.type == "cpu":
                self.on_new_state()
            skill = self._shared.tensor
        row = skill.to(rows.device, torch.float32, non_blocking=True) + self.eps
        return like(row.expand(rows.shape[0], -1), labels)

    def on_new_state(self) -> None:
        """Let workers see the skill."""
        if "skill" in self._buffers:
            self._published.of(self.skill)

    def __getstate__(self) -> dict[str, Any]:
        self.on_new_state()
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._published.set(self.skill, None)  # a copy publishes what it learns itself, only


def _folds(
    labels: Tensor, folds: int, groups: Tensor | None, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows to train on and rows to hold out, K times; every row with a label is held out once."""
    usable = torch.nonzero(labels >= 0)[:, 0]
    if groups is not None and groups.shape != labels.shape:
        raise MidasAugError(f"expected a group for each of {len(labels)} rows, got {len(groups)}")
    units = len(usable) if groups is None else len(set(groups[usable].tolist()))
    if folds < 2 or units < folds:
        what = "rows with a label" if groups is None else "groups"
        raise MidasAugError(
            f"expected 2 folds or more and no more than there are {what}, got {folds} folds of "
            f"{units} {what}"
        )
    shuffled = usable[torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))]
    if groups is None:
        # Dealt out class by class.
        dealt = shuffled[labels[shuffled].argsort(stable=True)]
        fold = torch.empty_like(labels)
        fold[dealt] = torch.arange(len(dealt)) % folds
    else:
        fold = _deal_groups(groups, shuffled, folds)
    for number in range(folds):
        held_out = fold[usable] == number
        yield usable[~held_out], usable[held_out]


def _deal_groups(groups: Tensor, rows: Tensor, folds: int) -> Tensor:
    """The fold of each row: the largest group first, always to the smallest fold."""
    sizes: dict[int, int] = {}
    for group in groups[rows].tolist():
        sizes[group] = sizes.get(group, 0) + 1
    filled, fold_of = [0] * folds, {}
    for group, size in sorted(sizes.items(), key=lambda item: -item[1]):
        fold_of[group] = filled.index(min(filled))
        filled[fold_of[group]] += size
    return torch.tensor([fold_of.get(group, -1) for group in groups.tolist()])
