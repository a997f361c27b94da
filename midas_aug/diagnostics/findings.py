"""Findings: what the scores of a report say in plain language.

Rules with thresholds, not tests of significance. Where a rule says "at least" or "at most", the
whole 95 % interval has to be on that side of the threshold: few rows make few findings.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, TypeAlias

from midas_aug.diagnostics import scores as kinds
from midas_aug.diagnostics.bootstrap import Score

__all__ = ["Finding", "find"]

IGNORED_COST = 0.02  # removing a modality costs at most this: the model does without it
HEADROOM = 0.10  # own head minus all others removed; at least this: it holds more than is used
UNHEARD = 0.10  # without a head: all others removed minus most frequent class; at most this
FOLLOWED = 0.75  # of rows in which it disagrees with all others; at least this: the model leans
SIGNAL = 0.05  # own head minus most frequent class; less, and not surely above 0: no signal
REDUNDANT_GAP = 0.02  # accuracy minus all others removed; at most this: that modality is enough
SHARED_ERRORS = 0.75  # of two heads; at least this: they know the same things
COLLAPSED = 0.8  # fraction of shares within 0.05 of 1/M; at least this: the shares say nothing
MISCALIBRATED = 0.10  # calibration error of a head; at least this is worth mending

Scores: TypeAlias = Mapping[str, Score]


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        kind: ``no_signal``, ``ignored``, ``unused``, ``leans``, ``underused``, ``redundant``,
            ``balanced``, ``collapsed_shares``, ``miscalibrated`` or ``advice``.
        modality: The one it is about, or None.
        text: One sentence or a few.
    """

    kind: str
    modality: str | None
    text: str

    def to_dict(self) -> dict[str, Any]:
        """The three fields by name."""
        return asdict(self)


def find(modalities: Sequence[str], scores: Scores) -> list[Finding]:
    """Apply every rule to the scores that there are.

    Args:
        modalities: Names, in order.
        scores: As in `ModalityReport.scores`; a rule whose scores are missing finds nothing.

    Returns:
        The findings; the last one is advice, where there is any.
    """
    silent = [m for m in modalities if _has_no_signal(scores, m)]
    enough = [m for m in modalities if _is_enough(scores, m)]
    groups = [tuple(enough)] if len(enough) > 1 else []
    copies = [pair for pair in combinations(modalities, 2) if _are_copies(scores, *pair)]
    copies = [pair for pair in copies if not set(pair) & set(silent)]

    found = [_no_signal(scores, m) for m in silent]
    found += [
        _neglect(scores, m)
        for m in modalities
        if _is_unheard(scores, m) and m not in silent and not groups
    ]
    found += _leaning(modalities, scores, silent)
    found += [_underused(scores, m) for m in modalities if _holds_more(scores, m)]
    found += [_any_is_enough(scores, group) for group in groups]
    found += [_copies(scores, *pair) for pair in copies]
    if not found:
        found += _balanced(modalities, scores)
    found += _about_confidence(modalities, scores)
    redundant = {m for group in (*groups, *copies) for m in group}
    return [*found, *_advice(found, modalities, scores, redundant)]


# ---------------------------------------------------------------- when a rule applies


def _has_no_signal(scores: Scores, modality: str) -> bool:
    signal = scores.get(kinds.SIGNAL.key(modality))
    return signal is not None and signal.low <= 0 and signal.value < SIGNAL


def _is_unheard(scores: Scores, modality: str) -> bool:
    """Whether the model does without it, and makes little of it when there is nothing else."""
    if not _at_most(scores.get(kinds.COST.key(modality)), IGNORED_COST):
        return False
    if kinds.HEADROOM.key(modality) in scores:
        return _holds_more(scores, modality)
    alone = scores.get(kinds.ALONE_SIGNAL.key(modality))
    return alone is None or _at_most(alone, UNHEARD)


def _is_enough(scores: Scores, modality: str) -> bool:
    """Whether the model is as good with this modality alone, and as good without it."""
    alone = scores.get(kinds.ALONE.key(modality))
    if alone is None or scores[kinds.ACCURACY.key()].value - alone.value > REDUNDANT_GAP:
        return False
    return _at_most(scores.get(kinds.COST.key(modality)), IGNORED_COST)


def _are_copies(scores: Scores, first: str, second: str) -> bool:
    return _at_least(scores.get(kinds.SHARED_ERRORS.key(first, second)), SHARED_ERRORS)


def _holds_more(scores: Scores, modality: str) -> bool:
    return _at_least(scores.get(kinds.HEADROOM.key(modality)), HEADROOM)


def _at_most(score: Score | None, threshold: float) -> bool:
    return score is not None and score.high <= threshold


def _at_least(score: Score | None, threshold: float) -> bool:
    return score is not None and score.low >= threshold


# ---------------------------------------------------------------- what it says


def _no_signal(scores: Scores, modality: str) -> Finding:
    head, majority = scores[kinds.HEAD_ACCURACY.key(modality)], scores[kinds.MAJORITY.key()]
    return Finding(
        "no_signal",
        modality,
        f"{modality} shows no signal: its own head reaches {_percent(head)} %, always naming the "
        f"most frequent class {100 * majority.value:.1f} %.",
    )


def _neglect(scores: Scores, modality: str) -> Finding:
    cost = f"removing {modality} costs {_percent(scores[kinds.COST.key(modality)])} points"
    head = scores.get(kinds.HEAD_ACCURACY.key(modality))
    if head is not None:
        text = f"{modality} is ignored: {cost}, though {modality} alone reaches {_percent(head)} %."
        return Finding("ignored", modality, text)
    return Finding(
        "unused",
        modality,
        f"{modality} is not used: {cost}. Whether it is ignored or has no signal cannot be told "
        f"without a classifier of {modality} alone (unimodal=, or head_{modality} in a file).",
    )


def _leaning(modalities: Sequence[str], scores: Scores, silent: Sequence[str]) -> Iterator[Finding]:
    for m in modalities:
        followed = scores.get(kinds.FOLLOWED.key(m))
        right_to = set(modalities) - {m} <= set(silent)  # there is nothing else to listen to
        if followed is not None and followed.low >= FOLLOWED and not right_to:
            yield Finding(
                "leans",
                m,
                f"The model leans on {m}: where it disagrees with all others, the model sides with "
                f"it in {_percent(followed)} % of the rows.",
            )


def _underused(scores: Scores, modality: str) -> Finding:
    return Finding(
        "underused",
        modality,
        f"{modality} is underused: with all others removed the model reaches "
        f"{_percent(scores[kinds.ALONE.key(modality)])} %, a head of its own "
        f"{_percent(scores[kinds.HEAD_ACCURACY.key(modality)])} %.",
    )


def _any_is_enough(scores: Scores, group: Sequence[str]) -> Finding:
    return Finding(
        "redundant",
        None,
        f"Any one of {_and(group)} is enough: with it alone the model is within "
        f"{100 * REDUNDANT_GAP:.0f} points of its accuracy with all "
        f"({_percent(scores[kinds.ACCURACY.key()])} %), and removing it costs at most "
        f"{100 * IGNORED_COST:.0f}.",
    )


def _copies(scores: Scores, first: str, second: str) -> Finding:
    shared = scores[kinds.SHARED_ERRORS.key(first, second)]
    return Finding(
        "redundant",
        None,
        f"{first} and {second} know the same things: their heads share {_percent(shared)} % of "
        "their errors. One is a copy of the other, or nearly so (or the labels of these rows are "
        "wrong).",
    )


def _balanced(modalities: Sequence[str], scores: Scores) -> Iterator[Finding]:
    if not all(kind.key(m) in scores for kind in (kinds.COST, kinds.FOLLOWED) for m in modalities):
        return
    costs = ", ".join(f"{m} {_percent(scores[kinds.COST.key(m)])}" for m in modalities)
    sides = ", ".join(f"{m} {_percent(scores[kinds.FOLLOWED.key(m)])} %" for m in modalities)
    yield Finding(
        "balanced",
        None,
        f"The modalities are in balance: none is ignored, and none rules. Points that removing one "
        f"costs: {costs}. Rows in which the model sides with one that disagrees with all others: "
        f"{sides}.",
    )


def _about_confidence(modalities: Sequence[str], scores: Scores) -> Iterator[Finding]:
    collapsed = scores.get(kinds.SHARE_COLLAPSED.key())
    if collapsed is not None and collapsed.low >= COLLAPSED:
        yield Finding(
            "collapsed_shares",
            None,
            f"The shares have collapsed: {_percent(collapsed)} % of them lie within 0.05 of "
            f"1/{len(modalities)}, so the soft labels are those of a plain swap. Heads that are "
            "sure of every row do this. Take confidences that were not fitted on the same rows: "
            "FrozenConfidence (trained elsewhere), CalibratedConfidence (a temperature from "
            "held-out rows), TableConfidence (out-of-sample numbers) or SkillConfidence (one "
            "number a modality, measured on held-out rows).",
        )
    for m in modalities:
        error = scores.get(kinds.HEAD_ECE.key(m))
        if error is not None and error.low >= MISCALIBRATED:
            yield Finding(
                "miscalibrated",
                m,
                f"The head of {m} is off by {_percent(error)} points in its confidence; "
                "CalibratedConfidence fits a temperature on held-out rows.",
            )


def _advice(
    found: Sequence[Finding], modalities: Sequence[str], scores: Scores, redundant: set[str]
) -> Iterator[Finding]:
    found_kinds = {finding.kind for finding in found}
    about = {(finding.kind, finding.modality) for finding in found}
    silent = [m for m in modalities if ("no_signal", m) in about]
    neglected = [m for m in modalities if {("ignored", m), ("underused", m)} & about]
    has_heads = all(kinds.HEAD_ACCURACY.key(m) in scores for m in modalities)
    if silent:
        text = (
            f"MIDAS is not likely to help with {_and(silent)} and may cost accuracy: swapped rows "
            "teach the model to listen to noise. Labels by skill (SkillConfidence) listen less to "
            "it; measure against joint training."
        )
    elif set(neglected) - redundant:
        text = (
            f"MIDAS is likely to help the model use {_and(neglected)}. Hold it against the plain "
            "swap (README, How to choose), and look at clean accuracy too."
        )
    elif redundant:
        text = (
            f"Between {_and([m for m in modalities if m in redundant])} there is nothing to "
            "rebalance: MIDAS is not likely to change the accuracy on intact rows; it may help "
            "where one of them goes missing."
        )
    elif {"leans", "unused"} & found_kinds and not has_heads:
        text = (
            "If the modalities that are not listened to have a signal, MIDAS is likely to help; "
            "classifiers of each alone (unimodal=, or head_<modality> in a file) tell whether they "
            "have."
        )
    elif "balanced" in found_kinds:
        text = "MIDAS has little imbalance to mend here."
    else:
        return
    yield Finding("advice", None, text)


def _percent(score: Score) -> str:
    """As ``0.4 ± 0.9``."""
    value = f"{100 * score.value:.1f}"
    return f"{value} ± {100 * score.margin:.1f}" if score.margin == score.margin else value


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
