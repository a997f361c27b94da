"""From statistics to a report: bootstrap, intervals, and what needs two scores."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from midas_aug.diagnostics.bootstrap import Statistic, bootstrap, interval
from midas_aug.diagnostics.class_pairs import ClassPair
from midas_aug.diagnostics.heads import memorised
from midas_aug.diagnostics.report import ModalityReport

__all__ = ["made_report"]


def made_report(
    statistics: Mapping[str, Statistic],
    settings: Mapping[str, Any],
    *,
    name: str,
    modalities: tuple[str, ...],
    labels: Tensor,
    constants: Mapping[str, float],
    hardness: Tensor | None,
    resamples: int,
    seed: int,
    class_pairs: tuple[ClassPair, ...] = (),
) -> ModalityReport:
    """Bootstrap statistics over the rows.

    Args:
        statistics: Scores by key.
        settings: How they were made.
        name: What tables and figures call the model.
        modalities: Names, in order.
        labels: ``(N,)``, to pair reports.
        constants: Scores without an interval, by key.
        hardness: ``(S,)`` hard-sample weights.
        resamples: Bootstrap samples.
        seed: Of the bootstrap.
        class_pairs: Those that are told apart worst.
    """
    results = bootstrap(statistics, resamples=resamples, seed=seed)
    results |= memorised(results, modalities)
    no_replicates = np.full(resamples, np.nan)
    results |= {key: (value, no_replicates) for key, value in constants.items()}
    return ModalityReport(
        name=name,
        modalities=modalities,
        scores={key: interval(*result) for key, result in results.items()},
        settings={**settings, "resamples": resamples, "seed": seed},
        hardness={} if hardness is None else _quantiles(hardness),
        class_pairs=class_pairs,
        labels=labels.cpu().numpy(),
        replicates={key: replicates for key, (_, replicates) in results.items()},
    )


def _quantiles(hardness: Tensor) -> dict[str, float]:
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    if len(hardness) == 0:
        return {}
    values = np.quantile(hardness.double().numpy(), levels)  # torch.quantile takes 2^24 at most
    return {str(level): float(value) for level, value in zip(levels, values, strict=True)}
