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
from midas_aug.diagnostics.wording import listed, percent

__all__ = ["Finding", "find", "redundant"]

IGNORED_COST = 0.02  # removing a modality costs at most this: the model does without it
HEADROOM = 0.10  # own head minus all others removed; at least this: it holds more than is used
UNHEARD = 0.10  # without a head: all others removed minus most frequent class; at most this
FOLLOWED = 0.75  # of rows in which it disagrees with all others; at least this: the model leans
SIGNAL = 0.05  # own head minus most frequent class; less, and not surely above 0: no signal
REDUNDANT_GAP = 0.02  # accuracy minus all others removed; at most this: that modality is enough
SHARED_ERRORS = 0.75  # of two heads; at least this: they know the same things
BEYOND_CHANCE = 0.5  # the same, where 0 is two heads that err independently and 1 two copies
COLLAPSED = 0.8  # fraction of shares within 0.05 of 1/M; at least this: the shares say nothing
MISCALIBRATED = 0.10  # calibration error of a head; at least this is worth mending

Scores: TypeAlias = Mapping[str, Score]


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        kind: ``no_signal``, ``ignored``, ``unused``, ``leans``, ``underused``, ``redundant``,
            ``balanced``, ``collapsed_shares`` or ``miscalibrated``.
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

    What to do about it says `midas_aug.diagnostics.advise`.
    """
    silent = [m for m in modalities if _has_no_signal(scores, m)]
    enough = [m for m in modalities if _is_enough(scores, m)]
    groups = [tuple(enough)] if len(enough) > 1 else []
    copies = _copied(modalities, scores)

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
    return found


def signal_of(scores: Scores, modality: str) -> Score | None:
    """What its own head knows beyond a constant: accuracy, or skill where there are no classes."""
    if kinds.HEAD_SCORE.key(modality) in scores:
        return scores.get(kinds.HEAD_SKILL.key(modality))
    return scores.get(kinds.SIGNAL.key(modality))


def head_of(scores: Scores, modality: str) -> Score | None:
    """How good its own head is, by accuracy or by the score of the target."""
    found = scores.get(kinds.HEAD_ACCURACY.key(modality))
    return scores.get(kinds.HEAD_SCORE.key(modality)) if found is None else found


def redundant(modalities: Sequence[str], scores: Scores) -> set[str]:
    """Modalities that the model would not miss, as others know the same."""
    found = {m for pair in _copied(modalities, scores) for m in pair}
    enough = [m for m in modalities if _is_enough(scores, m)]
    return found | set(enough if len(enough) > 1 else [])


# ---------------------------------------------------------------- when a rule applies


def _has_no_signal(scores: Scores, modality: str) -> bool:
    signal = signal_of(scores, modality)
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
    whole = scores.get(kinds.ACCURACY.key(), scores.get(kinds.SCORE.key()))
    if alone is None or whole is None or whole.value - alone.value > REDUNDANT_GAP:
        return False
    return _at_most(scores.get(kinds.COST.key(modality)), IGNORED_COST)


def _copied(modalities: Sequence[str], scores: Scores) -> list[tuple[str, str]]:
    heard = [m for m in modalities if not _has_no_signal(scores, m)]
    return [pair for pair in combinations(heard, 2) if _are_copies(scores, *pair)]


def _are_copies(scores: Scores, first: str, second: str) -> bool:
    shared = scores.get(kinds.SHARED_ERRORS.key(first, second))
    if shared is None or not _at_least(shared, SHARED_ERRORS):
        return False
    # Heads that are mostly wrong are often wrong together: by chance, the better one is wrong in
    # as many of the other's errors as in all rows.
    right = [scores[kinds.HEAD_ACCURACY.key(m)].value for m in (first, second)]
    chance = 1 - max(right)
    return shared.low - chance >= BEYOND_CHANCE * (1 - chance)


def _holds_more(scores: Scores, modality: str) -> bool:
    if kinds.HEAD_SCORE.key(modality) in scores:  # a macro F1 of chance is not 0, its skill is
        skill = scores.get(kinds.HEAD_SKILL.key(modality))
        if skill is not None and not _at_least(skill, SIGNAL):
            return False
    return _at_least(scores.get(kinds.HEADROOM.key(modality)), HEADROOM)


def _at_most(score: Score | None, threshold: float) -> bool:
    return score is not None and score.high <= threshold


def _at_least(score: Score | None, threshold: float) -> bool:
    return score is not None and score.low >= threshold


# ---------------------------------------------------------------- what it says


def _no_signal(scores: Scores, modality: str) -> Finding:
    majority = scores.get(kinds.MAJORITY.key())
    if majority is None:
        skill = scores[kinds.HEAD_SKILL.key(modality)]
        text = f"{modality} shows no signal: the skill of its own head is {percent(skill)} of 100."
        return Finding("no_signal", modality, text)
    head = scores[kinds.HEAD_ACCURACY.key(modality)]
    return Finding(
        "no_signal",
        modality,
        f"{modality} shows no signal: its own head reaches {percent(head)} %, always naming the "
        f"most frequent class {100 * majority.value:.1f} %.",
    )


def _neglect(scores: Scores, modality: str) -> Finding:
    cost = f"removing {modality} costs {percent(scores[kinds.COST.key(modality)])} points"
    head = head_of(scores, modality)
    if head is not None:
        text = f"{modality} is ignored: {cost}, though {modality} alone reaches {percent(head)} %."
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
                f"it in {percent(followed)} % of the rows.",
            )


def _underused(scores: Scores, modality: str) -> Finding:
    alone, head = scores[kinds.ALONE.key(modality)], head_of(scores, modality)
    own = "" if head is None else f", a head of its own {percent(head)} %"
    return Finding(
        "underused",
        modality,
        f"{modality} is underused: with all others removed the model reaches {percent(alone)} %"
        f"{own}.",
    )


def _any_is_enough(scores: Scores, group: Sequence[str]) -> Finding:
    kind = kinds.ACCURACY if kinds.ACCURACY.key() in scores else kinds.SCORE
    return Finding(
        "redundant",
        None,
        f"Any one of {listed(group)} is enough: with it alone the model is within "
        f"{100 * REDUNDANT_GAP:.0f} points of its {kind.name} with all "
        f"({percent(scores[kind.key()])} %), and removing it costs at most "
        f"{100 * IGNORED_COST:.0f}.",
    )


def _copies(scores: Scores, first: str, second: str) -> Finding:
    shared = scores[kinds.SHARED_ERRORS.key(first, second)]
    return Finding(
        "redundant",
        None,
        f"{first} and {second} know the same things: their heads share {percent(shared)} % of "
        "their errors. One is a copy of the other, or nearly so (or the labels of these rows are "
        "wrong).",
    )


def _balanced(modalities: Sequence[str], scores: Scores) -> Iterator[Finding]:
    if not all(kind.key(m) in scores for kind in (kinds.COST, kinds.FOLLOWED) for m in modalities):
        return
    costs = ", ".join(f"{m} {percent(scores[kinds.COST.key(m)])}" for m in modalities)
    sides = ", ".join(f"{m} {percent(scores[kinds.FOLLOWED.key(m)])} %" for m in modalities)
    yield Finding(
        "balanced",
        None,
        "The modalities seem in balance: none is clearly ignored, and none clearly rules. Points "
        f"that removing one costs: {costs}. Rows in which the model sides with one that disagrees "
        f"with all others: {sides}.",
    )


def _about_confidence(modalities: Sequence[str], scores: Scores) -> Iterator[Finding]:
    collapsed = scores.get(kinds.SHARE_COLLAPSED.key())
    if collapsed is not None and collapsed.low >= COLLAPSED:
        yield Finding(
            "collapsed_shares",
            None,
            f"The shares have collapsed: {percent(collapsed)} % of them lie within 0.05 of "
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
                f"The head of {m} is off by {percent(error)} points in its confidence; "
                "CalibratedConfidence fits a temperature on held-out rows.",
            )
