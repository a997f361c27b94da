"""Advice: from the scores of a report to what to do, by a table of rules.

The table is in docs/diagnostics.md, with where each threshold comes from. As in the findings, "at
least" and "above" are said of the whole 95 % interval, unless a rule says "about".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from midas_aug.diagnostics import scores as kinds
from midas_aug.diagnostics.bootstrap import Score
from midas_aug.diagnostics.findings import IGNORED_COST, Finding, head_of, redundant
from midas_aug.diagnostics.wording import beside, listed, percent

__all__ = ["Action", "Advice", "advise", "steps"]

GAIN = 0.03  # of late fusion or a head over the model: about this, and surely above 0
MEMORISED = 0.2  # training minus held-out skill of a head; at least this
MEMORISED_PART = 2 / 3  # of its training skill, about; the gap is at least this part

# What recipes.skill gained on fourteen tasks is a line in the gain of fitted late fusion of probes
# (benchmarks/results/diagnosis/foretell.md). The margin is that of a new task, 95 %.
GAIN_OF_SKILL = (1.3, 0.019)  # slope and offset
MARGIN_OF_SKILL = 0.06
FORETOLD_UP_TO = 0.3  # no task had more

BETTER_STILL = "A model trained for each modality alone is likely to do better still."

Scores: TypeAlias = Mapping[str, Score]
Action: TypeAlias = Literal[
    "drop", "fit_weights", "late_fusion", "skill", "augment", "paper", "ask_heads", "nothing"
]


@dataclass(frozen=True)
class Advice:
    """One thing to do.

    Attributes:
        action: ``"drop"`` the modality; ``"fit_weights"`` of late fusion on validation rows;
            ``"late_fusion"``; train with ``recipes.skill`` (``"skill"``); more data or stronger
            augmentation for the modality (``"augment"``); train with ``recipes.paper``
            (``"paper"``); diagnose again with a classifier of each modality (``"ask_heads"``);
            ``"nothing"``.
        modality: The one it is about, or None.
        text: What to do and why, with the numbers and their intervals.
        because: Keys of the scores that led to it.
    """

    action: Action
    modality: str | None
    text: str
    because: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The four fields by name."""
        return asdict(self)


def steps(advice: Sequence[Advice]) -> list[str]:
    """The lines of a numbered list under a heading; none where there is no advice."""
    numbered = [f"{number}. {one.text}" for number, one in enumerate(advice, start=1)]
    return ["What to do:", "", *numbered] if numbered else []


def advise(
    modalities: Sequence[str],
    scores: Scores,
    findings: Sequence[Finding],
    *,
    gain: float = GAIN,
) -> list[Advice]:
    """What to do, the most useful first; nothing where the scores do not tell.

    Args:
        modalities: Names, in order.
        scores: As in `ModalityReport.scores`; a rule whose scores are missing says nothing.
        findings: What `midas_aug.diagnostics.findings.find` says of them.
        gain: What late fusion or a head has to be above the model, about.

    Example:
        >>> from midas_aug.diagnostics import Score, advise
        >>> gain = Score(0.11, 0.07, 0.14)
        >>> found = {"fitted_fusion_gain": gain, "fitting_gain": Score(0.04, 0.01, 0.06)}
        >>> found["fitted_fusion"] = Score(0.7, 0.67, 0.73)
        >>> [advice.action for advice in advise(("image", "text"), found, [])]
        ['fit_weights', 'skill']
    """
    about = {(finding.kind, finding.modality) for finding in findings}
    silent = [m for m in modalities if ("no_signal", m) in about]
    neglected = [m for m in modalities if {("ignored", m), ("underused", m)} & about]
    copies = redundant(modalities, scores)
    found = [_drop(scores, m) for m in silent if _is_idle(scores, m)]
    competing = list(_competing(modalities, scores, gain))
    found += competing
    found += [_augment(scores, m) for m in modalities if m not in silent and _memorised(scores, m)]
    wanted = [m for m in neglected if m not in copies and m not in silent]
    if wanted and not competing:
        found.append(_rebalance(scores, wanted, silent))
    if found:
        return found
    if any(head_of(scores, m) is None for m in modalities):
        unheard = any(finding.kind in ("leans", "unused") for finding in findings)
        return [_ask_heads(scores, modalities)] if unheard else []
    return [_nothing(scores, sorted(copies, key=list(modalities).index))]


# ---------------------------------------------------------------- when a rule applies


def _is_idle(scores: Scores, modality: str) -> bool:
    """Whether the model is about as good without it, or nothing is known of that."""
    cost = scores.get(kinds.COST.key(modality))
    return cost is None or cost.value <= IGNORED_COST


def _memorised(scores: Scores, modality: str) -> bool:
    gap = scores.get(kinds.MEMORISED.key(modality))
    if gap is None or not gap.low >= MEMORISED:
        return False
    return gap.value >= MEMORISED_PART * scores[kinds.TRAINING_SKILL.key(modality)].value


def _gains(score: Score | None, gain: float) -> bool:
    return score is not None and score.low > 0 and score.value >= gain


def _competing(modalities: Sequence[str], scores: Scores, gain: float) -> Iterator[Advice]:
    """Where the heads know more together, or one of them alone, than the model makes of them."""
    late, fitted = kinds.LATE_FUSION_GAIN.key(), kinds.FITTED_FUSION_GAIN.key()
    better = [m for m in modalities if _gains(scores.get(kinds.HEAD_GAIN.key(m)), gain)]
    because = tuple(key for key in (late, fitted) if _gains(scores.get(key), gain))
    because += tuple(kinds.HEAD_GAIN.key(m) for m in better)
    fitting = scores.get(kinds.FITTING_GAIN.key())
    if fitted in because and (late not in because or fitting is None or fitting.value >= 0):
        yield _fit_weights(scores, because)
    elif late in because:
        yield _late_fusion(scores, because)
    elif not better:
        return
    yield _train_with_skill(scores, better, because)


# ---------------------------------------------------------------- what it says


def _drop(scores: Scores, modality: str) -> Advice:
    keys = [kind.key(modality) for kind in (kinds.SIGNAL, kinds.HEAD_SKILL, kinds.COST)]
    cost = scores.get(kinds.COST.key(modality))
    without = "" if cost is None else f", and removing it costs {percent(cost)} points"
    signal = scores.get(kinds.SIGNAL.key(modality))
    if signal is None:
        skill = scores[kinds.HEAD_SKILL.key(modality)]
        known = f"the skill of its own head is {percent(skill)} of 100"
    else:
        known = f"its own head is {percent(signal)} points above the most frequent class"
    return Advice(
        "drop",
        modality,
        f"Drop {modality}, or find a better encoder for it: {known}{without}. MIDAS and the plain "
        "swap would teach the model to listen to it; labels by skill (recipes.skill) listen less.",
        tuple(key for key in keys if key in scores),
    )


def _fit_weights(scores: Scores, because: tuple[str, ...]) -> Advice:
    return Advice(
        "fit_weights",
        None,
        "Use late fusion with one weight a modality, fitted on validation rows "
        "(functional.fit_fusion_weights): of the heads that you passed it is right in "
        f"{percent(scores[kinds.FITTED_FUSION.key()])} % of the rows, "
        f"{beside(scores[kinds.FITTED_FUSION_GAIN.key()])}. {BETTER_STILL}",
        because,
    )


def _late_fusion(scores: Scores, because: tuple[str, ...]) -> Advice:
    accuracy = scores.get(kinds.LATE_FUSION.key())
    reached = "" if accuracy is None else f"right in {percent(accuracy)} % of the rows, "
    return Advice(
        "late_fusion",
        None,
        f"Use late fusion: the mean prediction of the heads that you passed is {reached}"
        f"{beside(scores[kinds.LATE_FUSION_GAIN.key()])}. {BETTER_STILL}",
        because,
    )


def _train_with_skill(scores: Scores, better: Sequence[str], because: tuple[str, ...]) -> Advice:
    why = "The modalities compete: fused late, they know more than the model makes of them"
    if better:
        gains = [f"{percent(scores[kinds.HEAD_GAIN.key(m)])} points" for m in better]
        why = f"The modalities compete: {listed(better)} alone is {listed(gains)} above the model"
    return Advice(
        "skill",
        None,
        f"{why}. If it has to be one model that is trained jointly, train it with recipes.skill "
        f"(labels by the skill of each modality on validation rows).{_foretold(scores)}",
        because,
    )


def _foretold(scores: Scores) -> str:
    """What training with skill is likely to gain, where the comparison has tasks like this."""
    score = scores.get(kinds.FITTED_FUSION_GAIN.key())
    if score is None or not 0 <= score.value <= FORETOLD_UP_TO:
        return ""
    slope, offset = GAIN_OF_SKILL
    gain = slope * score.value + offset
    return (
        f" On our fourteen tasks a model with this score gained about {100 * gain:.0f} points by "
        f"it, give or take {100 * MARGIN_OF_SKILL:.0f}."
    )


def _augment(scores: Scores, modality: str) -> Advice:
    keys = [kind.key(modality) for kind in (kinds.MEMORISED, kinds.TRAINING_SKILL)]
    text = (
        f"{modality} is memorised: the skill of its head is {percent(scores[keys[1]])} on training "
        f"rows and {percent(scores[kinds.HEAD_SKILL.key(modality)])} on these. More data, or "
        "stronger augmentation or regularisation of this modality."
    )
    speed = scores.get(kinds.LEARNED_AT.key(modality))
    if speed is not None:
        text += f" Its head was half as sure as it ever became by epoch {speed.value:.1f}."
    return Advice("augment", modality, text, (*keys, kinds.HEAD_SKILL.key(modality)))


def _rebalance(scores: Scores, wanted: Sequence[str], silent: Sequence[str]) -> Advice:
    keys = [kind.key(m) for m in wanted for kind in (kinds.HEADROOM, kinds.COST)]
    because = tuple(key for key in keys if key in scores)
    numbers = [
        f"{m} (own head {percent(scores[kinds.HEADROOM.key(m)])} points above what the model makes "
        "of it)"
        for m in wanted
    ]
    if silent:
        return Advice(
            "skill",
            None,
            f"To have the model use {listed(numbers)}, train with recipes.skill: MIDAS would teach "
            f"it to listen to {listed(silent)}, too.",
            because,
        )
    text = (
        f"To have the model use {listed(numbers)}, train with recipes.paper, and with "
        "recipes.plain_swap beside it. That is likely to help where a modality is missing or wrong."
    )
    gain = scores.get(kinds.LATE_FUSION_GAIN.key())
    if gain is not None:
        text += f" On intact rows do not expect more: late fusion of these heads is {beside(gain)}."
    return Advice("paper", None, text, because)


def _ask_heads(scores: Scores, modalities: Sequence[str]) -> Advice:
    keys = [kind.key(m) for kind in (kinds.FOLLOWED, kinds.COST) for m in modalities]
    return Advice(
        "ask_heads",
        None,
        "Diagnose again with a classifier of each modality (unimodal=, for which linear_probes "
        "fits some; head_<modality> in a file): without them nobody can tell a modality that is "
        "ignored from one that has no signal.",
        tuple(key for key in keys if key in scores),
    )


def _nothing(scores: Scores, copies: Sequence[str]) -> Advice:
    keys = [kinds.LATE_FUSION_GAIN.key(), kinds.FITTED_FUSION_GAIN.key()]
    because = tuple(key for key in keys if key in scores)
    text = "Nothing is wrong here that training in another way would mend"
    if because:
        text += f": late fusion of the heads is {beside(scores[because[0]])}"
        if len(because) > 1:
            text += f", with fitted weights {beside(scores[because[1]])}"
    text += "."
    if copies:
        text += (
            f" Between {listed(copies)} there is nothing to rebalance; MIDAS may help where one of "
            "them goes missing."
        )
    return Advice("nothing", None, text, because)
