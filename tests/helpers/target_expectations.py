"""What the reference says of one augmented batch of a `Case`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from midas_aug import MisalignedBatch
from tests.helpers import strategies
from tests.helpers import target_reference as slow
from tests.helpers.target_cases import Case
from tests.helpers.target_reference import AlphaStep, Array


@dataclass
class Expected:
    """The mixed rows of a batch by the reference, given its draws.

    Attributes:
        case: The batch that went in.
        source: (S, M).
        anchor: (S,).
        valid: (S,).
        shares: (S, M); NaN where a row does not count.
        hard: (S,).
    """

    case: Case
    source: Array
    anchor: Array
    valid: Array
    shares: Array
    hard: Array

    @property
    def all_rows(self) -> tuple[Array, Array, Array]:
        """Source (N + S, M), shares (N + S, M) and validity (N + S,), aligned rows first."""
        case = self.case
        own = np.arange(case.n)
        counted = np.isin(own, case.counted)
        aligned = slow.aligned_shares(case.n, case.m, case.present)
        return (
            np.concatenate([np.repeat(own[:, None], case.m, axis=1), self.source]),
            np.concatenate([aligned, self.shares]),
            np.concatenate([counted, self.valid]),
        )

    def weights(self) -> Array:
        case = self.case
        return slow.row_weights(
            case.kind, case.labels, self.valid, case.m, self.hard, case.lam, case.present
        )

    def targets(self) -> Array:
        return slow.dense_targets(self.case.kind, self.case.labels, *self.all_rows)

    def credit(self, scores: Any) -> Array:
        """Of the fused predictions (N + S, …), those of the mixed rows."""
        case, fused = self.case, exact(scores)[self.case.n :]
        return slow.credit(case.kind, fused, case.labels, self.source, self.valid, case.present)

    def alpha_after(self, scores: Any, alpha: Array, step_size: float = 0.05) -> AlphaStep:
        return slow.alpha_step(alpha, self.shares, self.credit(scores), self.valid, step_size)

    def terms(
        self, scores: Any, alpha: Array | None = None, unimodal_weight: float = 1.0
    ) -> dict[str, float]:
        case = self.case
        return slow.loss_terms(
            case.kind,
            exact(scores),
            [exact(values) for values in case.unimodal.values()],
            case.labels,
            self.source,
            self.anchor,
            self.valid,
            self.shares,
            self.hard,
            np.ones(case.m) if alpha is None else alpha,
            case.lam,
            unimodal_weight,
            case.present,
        )


def exact(values: Any) -> Array:
    """The numbers of an array in float64."""
    if isinstance(values, Tensor):
        return np.asarray(values.detach().double().numpy())
    return np.asarray(values, dtype=np.float64)


def expect(case: Case, out: MisalignedBatch) -> Expected:
    """What the draws of ``out`` have to be labelled with."""
    source, anchor, valid = (strategies.as_numpy(part) for part in out.plan)
    unimodal = [exact(values) for values in case.unimodal.values()]
    features = [exact(values) for values in case.features.values()]
    return Expected(
        case,
        source,
        anchor,
        valid,
        slow.mixed_shares(case.kind, unimodal, case.labels, source, valid, case.present),
        slow.hardness(features, source, anchor, case.present),
    )
