"""The rows of the comparison: a method, what is fixed in it, and what is tuned."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TypeAlias

from benchmarks.methods.agm import AGM
from benchmarks.methods.amco import AMCo
from benchmarks.methods.aug import AUG
from benchmarks.methods.base import Method
from benchmarks.methods.cggm import CGGM
from benchmarks.methods.detached import Detached
from benchmarks.methods.inforeg import InfoReg
from benchmarks.methods.late_fusion import LateFusionOfUnimodal
from benchmarks.methods.lemda import LeMDA
from benchmarks.methods.lfm import LFM
from benchmarks.methods.masam import MASAM
from benchmarks.methods.mcr import MCR
from benchmarks.methods.midas import Midas, MidasPublicCode
from benchmarks.methods.mixup import Mixup
from benchmarks.methods.mmpareto import MMPareto
from benchmarks.methods.modality_dropout import ModalityDropout
from benchmarks.methods.ogm import OGM
from benchmarks.methods.opm import OPM
from benchmarks.methods.pdmp import PDMP
from benchmarks.methods.powmix import PowMix
from benchmarks.methods.pretrained import Pretrained
from benchmarks.methods.reading import (
    Alone,
    FittedHeads,
    FittedHeadsApart,
    FittedWeights,
    Reading,
)
from benchmarks.methods.remix import DataRemixing
from benchmarks.methods.same_class import SameClass
from benchmarks.methods.skill import Skill
from benchmarks.methods.smv import SMV
from benchmarks.methods.tcmax import TCMax
from benchmarks.methods.unimodal_losses import UnimodalLosses
from benchmarks.methods.zero_ablated import ARL, DGL, ZeroAblated

Value: TypeAlias = float | str
Knob: TypeAlias = tuple[str, tuple[Value, Value]]
Config: TypeAlias = dict[str, Value]  # LEARNING_RATE, and hyper-parameters of the method

LEARNING_RATE = "learning_rate"
FOUR_RATES = (0.003, 0.01, 0.03, 0.1)
TWO_RATES = (0.01, 0.03)


@dataclass(frozen=True)
class Entry:
    """A row of the tables.

    Every entry is tuned over four configurations: four learning rates, or two of them times two
    values of a hyper-parameter of its own. (In the skill suite: over the two.) Entries that follow
    another one take its tuned configuration and tune the learning rate alone, or nothing.

    Attributes:
        title: As printed.
        method: Built with ``fixed`` and the tuned hyper-parameters.
        fixed: Hyper-parameters that say what the entry is.
        knob: The tuned hyper-parameter and its two values; empty for none.
        follows: An entry whose tuned configuration this one starts from.
        tuned: False for an entry that takes all of it.
        alone: One modality a run, the others are not looked at.
        rates: The learning rates, where there is no knob; the first one is the default.
        read_off: An entry whose training this one reads in another way; it follows that entry.
        fitted: The way to read it, where no modality is looked at alone.
    """

    title: str
    method: type[Method] = Method
    fixed: Mapping[str, Value] = field(default_factory=dict)
    knob: Knob | None = None
    follows: str | None = None
    tuned: bool = True
    alone: bool = False
    rates: tuple[float, ...] = tuple(sorted(FOUR_RATES, key=lambda rate: rate != TWO_RATES[0]))

    read_off: str | None = None
    fitted: type[Reading] = FittedWeights

    def reading(self, modality: str | None) -> Reading:
        """How the trained model is read; ``modality`` is the one that is looked at alone."""
        if self.read_off is None:
            return Reading()
        if modality is not None:
            return Alone(modality)
        return self.fitted()

    def configs(self) -> list[Config]:
        """What tuning chooses from; the first one is the default."""
        if not self.tuned:
            return []
        if self.knob is None:
            return [{LEARNING_RATE: rate} for rate in self.rates]
        name, values = self.knob
        return [{LEARNING_RATE: rate, name: value} for rate, value in product(TWO_RATES, values)]

    def build(self, config: Config) -> Method:
        """The method with this configuration."""
        tuned = {name: value for name, value in config.items() if name != LEARNING_RATE}
        return self.method(**{**tuned, **self.fixed})


def _ablation(warmup: bool, weak: bool, hard: bool) -> Entry:
    parts = {"warm-up": warmup, "weak modality": weak, "hard samples": hard}
    on = " + ".join(name for name, is_on in parts.items() if is_on)
    fixed: dict[str, Value] = {"weak_modality": weak, "hard_samples": hard}
    if not warmup:
        fixed["warmup"] = 0
    return Entry(f"MIDAS: {on or 'soft labels alone'}", Midas, fixed, follows="midas", tuned=False)


def config_words(config: Iterable[tuple[str, Value]]) -> list[str]:
    """A configuration as ``name=value``."""
    return [
        f"{name}={value if isinstance(value, str) else format(value, '.3g')}"
        for name, value in config
    ]


PLAIN = {
    "soft_labels": False,
    "weak_modality": False,
    "hard_samples": False,
}

ENTRIES: dict[str, Entry] = {
    "unimodal": Entry("unimodal", alone=True),
    "late-fusion": Entry("late fusion", LateFusionOfUnimodal),
    "joint": Entry("joint"),
    "unimodal-losses": Entry("joint + unimodal losses", UnimodalLosses, knob=("weight", (1, 0.3))),
    "modality-dropout": Entry("modality dropout", ModalityDropout, knob=("rate", (0.5, 0.25))),
    "mixup": Entry("Mixup", Mixup, knob=("alpha", (1, 0.2))),
    "powmix": Entry("PowMix", PowMix, knob=("clean_weight", (0, 1))),
    "lemda": Entry("LeMDA", LeMDA, knob=("adversarial_weight", (1e-4, 1e-3))),
    "ogm": Entry("OGM", OGM, {"noise": False}, knob=("alpha", (0.8, 0.1))),
    "ogm-ge": Entry("OGM-GE", OGM, {"noise": True}, knob=("alpha", (0.8, 0.1))),
    "agm": Entry("AGM", AGM, knob=("alpha", (1, 3))),
    "smv": Entry("SMV", SMV, knob=("warmup", (1 / 12, 1 / 7))),
    "opm": Entry("OPM", OPM, knob=("q_base", (0.5, 0.4))),
    "amco": Entry("AMCo", AMCo, knob=("mask_space", ("logit", "feature"))),
    "lfm": Entry("LFM", LFM),
    "mcr": Entry("MCR", MCR, knob=("regularizer", (0.1, 0.01))),
    "plain-swap": Entry(
        "plain swap", Midas, {**PLAIN, "unimodal_weight": 0, "warmup": 0}, follows="midas"
    ),
    "plain-swap-warmup": Entry("plain swap + warm-up", Midas, PLAIN, follows="midas"),
    "midas": Entry("MIDAS", Midas, knob=("misaligned_weight", (1, 5))),
    "midas-public-code": Entry("MIDAS, public code", MidasPublicCode, follows="midas"),
    **{
        f"midas-{warmup:d}{weak:d}{hard:d}": _ablation(warmup, weak, hard)
        for warmup, weak, hard in product((False, True), repeat=3)
        if not (warmup and weak and hard)  # that is MIDAS
    },
}


def _at(title: str, like: str, half: bool = False, **fixed: Value) -> Entry:
    """A row of the skill suite that takes the learning rate of another one."""
    method = SKILL_LEADERS[like]
    weight = 0.5 if half else 1
    return Entry(
        f"{title}, λ = ½" if half else title,
        method.method,
        {**method.fixed, **fixed, "misaligned_weight": weight},
        follows=like,
        tuned=False,
    )


NO_WARMUP: dict[str, Value] = {"unimodal_weight": 0, "warmup": 0}
# λ = 1, and two learning rates each.
SKILL_LEADERS = {
    "skill": Entry("skill", Skill, {"misaligned_weight": 1}, rates=TWO_RATES),
    "plain-swap": Entry(
        "plain swap", Midas, {**PLAIN, **NO_WARMUP, "misaligned_weight": 1}, rates=TWO_RATES
    ),
    "midas": Entry("MIDAS", Midas, {"misaligned_weight": 1}, rates=TWO_RATES),
}
# The rows of the skill suite, those first that matter most.
SKILL_ENTRIES: dict[str, Entry] = {
    "joint": ENTRIES["joint"],
    **SKILL_LEADERS,
    "skill-half": _at("skill", "skill", half=True),
    "plain-swap-half": _at("plain swap", "plain-swap", half=True),
    "unimodal-losses": ENTRIES["unimodal-losses"],
    "midas-matched": _at("MIDAS without warm-up", "midas", warmup=0),
    "modality-dropout": ENTRIES["modality-dropout"],
    "plain-swap-warmup": _at("plain swap + warm-up", "plain-swap", unimodal_weight=1, warmup=1 / 7),
    "plain-swap-warmup-half": _at(
        "plain swap + warm-up", "plain-swap", half=True, unimodal_weight=1, warmup=1 / 7
    ),
}


THREE_RATES = (0.03, 0.01, 0.1)


FITTED: dict[type[Reading], str] = {
    FittedWeights: "fitted weights",
    FittedHeads: "fitted heads",
    FittedHeadsApart: "fitted heads, rows apart",
}


def _fitted(
    leaders: Mapping[str, Entry], like: str, fitted: type[Reading] = FittedWeights
) -> Entry:
    """The training of another row, read with what is fitted on validation rows."""
    leader = leaders[like]
    return Entry(
        f"{leader.title}, {FITTED[fitted]}",
        leader.method,
        leader.fixed,
        follows=like,
        tuned=False,
        read_off=like,
        fitted=fitted,
    )


COMPETITION_LEADERS = {
    "late-fusion": Entry("late fusion", LateFusionOfUnimodal, rates=THREE_RATES),
    "joint": Entry("joint", rates=THREE_RATES),
    **{
        name: replace(SKILL_LEADERS[name], rates=THREE_RATES)
        for name in ("skill", "midas", "plain-swap")
    },
}
# Rows of the competition suite that came to it later; see its protocol.
COMPETITION_LATER = ("inforeg", "cggm", "remix", "pdmp", "aug", "masam")
COMPETITION_LAST = ("zero-ablated", "dgl", "pretrained", "mmpareto", "arl", "arl-released")
# Untuned, at the rate of joint training.
COMPETITION_BESIDE = {
    name: Entry(title, method, fixed, follows="joint", tuned=False)
    for name, title, method, fixed in (
        ("unimodal-losses", "joint + unimodal losses", UnimodalLosses, {"weight": 1}),
        ("tcmax", "TCMax", TCMax, {}),
        ("same-class", "same-class re-pairing", SameClass, {}),
        ("detached", "fusion on detached features", Detached, {}),
        ("modality-dropout", "modality dropout", ModalityDropout, {"rate": 0.5}),
        ("inforeg", "InfoReg", InfoReg, {}),
        ("cggm", "CGGM", CGGM, {}),
        ("remix", "Data Remixing", DataRemixing, {}),
        ("pdmp", "PDMP", PDMP, {}),  # the image, which is the first modality and the best alone
        ("aug", "AUG", AUG, {}),
        ("masam", "MASAM", MASAM, {}),
        ("zero-ablated", "joint + zero-ablated losses", ZeroAblated, {}),
        ("dgl", "DGL", DGL, {}),
        ("pretrained", "unimodal pretraining, then joint", Pretrained, {}),
        ("mmpareto", "MMPareto", MMPareto, {}),
        ("arl", "ARL, as printed", ARL, {}),
        ("arl-released", "ARL, as released", ARL, {"printed": False}),
    )
}
ALONE = Entry(
    "unimodal",
    LateFusionOfUnimodal,
    follows="late-fusion",
    tuned=False,
    alone=True,
    read_off="late-fusion",
)
# The rows of the competition suite, those first that matter most.
COMPETITION_ENTRIES: dict[str, Entry] = {
    "late-fusion": COMPETITION_LEADERS["late-fusion"],
    "late-fusion-fitted": _fitted(COMPETITION_LEADERS, "late-fusion"),
    "unimodal": ALONE,
    "joint": COMPETITION_LEADERS["joint"],
    "joint-fitted": _fitted(COMPETITION_LEADERS, "joint"),
    "skill": COMPETITION_LEADERS["skill"],
    "skill-fitted": _fitted(COMPETITION_LEADERS, "skill"),
    "midas": COMPETITION_LEADERS["midas"],
    "midas-fitted": _fitted(COMPETITION_LEADERS, "midas"),
    "plain-swap": COMPETITION_LEADERS["plain-swap"],
    "plain-swap-fitted": _fitted(COMPETITION_LEADERS, "plain-swap"),
    **COMPETITION_BESIDE,
}

# Up to 0.2, for late fusion had its best rate at the end of the three.
WIDE_RATES = (0.03, 0.01, 0.1, 0.2)
HEAVY: dict[str, Value] = {"unimodal_weight": 3}
HEADS_LEADERS = {
    **{name: replace(entry, rates=WIDE_RATES) for name, entry in COMPETITION_LEADERS.items()},
    "plain-swap-heads": Entry(
        "plain swap, heads × 3",
        Midas,
        {**PLAIN, **HEAVY, "warmup": 0, "misaligned_weight": 1},
        rates=WIDE_RATES,
    ),
    "skill-heads": Entry(
        "skill, heads × 3", Skill, {**HEAVY, "misaligned_weight": 1}, rates=WIDE_RATES
    ),
}
# The rows of the suite about the weight of the heads, those first that matter most.
HEADS_ENTRIES: dict[str, Entry] = {
    **HEADS_LEADERS,
    "late-fusion-fitted": _fitted(HEADS_LEADERS, "late-fusion"),
    "unimodal": ALONE,
    "joint-fitted": _fitted(HEADS_LEADERS, "joint"),
    **{
        f"{name}-fitted-heads": _fitted(HEADS_LEADERS, name, FittedHeads)
        for name in ("midas", "skill", "plain-swap-heads", "skill-heads")
    },
}

APART_LEADERS = {
    **{name: HEADS_LEADERS[name] for name in ("late-fusion", "joint", "plain-swap", "skill-heads")},
    "skill-heads-thirds": replace(
        HEADS_LEADERS["skill-heads"],
        title="skill of a third, heads × 3",
        fixed={**HEADS_LEADERS["skill-heads"].fixed, "apart": True},
        follows="skill-heads",
        tuned=False,
    ),
}
# The rows of the suite about what validation rows are used for.
APART_ENTRIES: dict[str, Entry] = {
    **APART_LEADERS,
    "late-fusion-fitted": _fitted(APART_LEADERS, "late-fusion"),
    "skill-heads-fitted-heads": _fitted(APART_LEADERS, "skill-heads", FittedHeads),
    "skill-heads-fitted-heads-apart": _fitted(APART_LEADERS, "skill-heads", FittedHeadsApart),
    "skill-heads-thirds-fitted-heads-apart": _fitted(
        APART_LEADERS, "skill-heads-thirds", FittedHeadsApart
    ),
}


def _default(title: str, **fixed: Value) -> Entry:
    """MIDAS at λ = 1 and the one rate of the suite about cheaper swaps."""
    return Entry(title, Midas, {**fixed, "misaligned_weight": 1}, rates=(0.03,))


# The rows of the suite about swapping less.
CHEAPER_ENTRIES: dict[str, Entry] = {
    "joint": Entry("joint", rates=(0.03,)),
    "plain-swap": _default("plain swap", **PLAIN, **NO_WARMUP),
    "midas": _default("MIDAS"),
    "midas-one": _default("MIDAS, one modality a row", one=True),
    "midas-every-2": _default("MIDAS, every second batch", every=2),
    "midas-every-4": _default("MIDAS, every fourth batch", every=4),
}

HIGH_RATES = (0.03, 0.1)
# The rows of the suite about tags, numbers and missing modalities.
LABEL_ENTRIES: dict[str, Entry] = {
    "joint": Entry("joint", rates=HIGH_RATES),
    "modality-dropout": Entry("modality dropout", ModalityDropout, {"rate": 0.5}, rates=HIGH_RATES),
    **{
        name: replace(SKILL_LEADERS[name], rates=HIGH_RATES)
        for name in ("plain-swap", "midas", "skill")
    },
}


def _rival(title: str, method: type[Method], knob: Knob | None = None, **fixed: Value) -> Entry:
    """A row of the suite about rivals: four learning rates, or two times two values."""
    return Entry(title, method, fixed, knob, rates=WIDE_RATES)


# Rivals where modalities compete, each with what to tune in it.
RIVALS: dict[str, Entry] = {
    "unimodal-losses": _rival("joint + unimodal losses", UnimodalLosses, ("weight", (1, 0.3))),
    "modality-dropout": _rival("modality dropout", ModalityDropout, ("rate", (0.5, 0.25))),
    "mixup": _rival("Mixup", Mixup, ("alpha", (1, 0.2))),
    "ogm-ge": _rival("OGM-GE", OGM, ("alpha", (0.8, 0.1)), noise=True),
    "agm": _rival("AGM", AGM, ("alpha", (1, 3))),
    "tcmax": _rival("TCMax", TCMax),
    "same-class": _rival("same-class re-pairing", SameClass),
    "detached": _rival("fusion on detached features", Detached),
    "zero-ablated": _rival("joint + zero-ablated losses", ZeroAblated, ("weight", (4, 1))),
    "dgl": _rival("DGL", DGL, ("alpha", (4, 1))),
    "pretrained": _rival("unimodal pretraining, then joint", Pretrained, ("fraction", (0.5, 0.25))),
    "mmpareto": _rival("MMPareto", MMPareto),
    "arl": _rival("ARL, as printed", ARL, ("temperature", (8, 4))),
    "arl-released": _rival("ARL, as released", ARL, ("weight", (4, 1)), printed=False),
    "inforeg": _rival("InfoReg", InfoReg, ("beta", (0.95, 0.9))),
    "cggm": _rival("CGGM", CGGM, ("direction", (0.2, 0.1))),
    "remix": _rival("Data Remixing", DataRemixing, ("gamma", (1, 0.5))),
    "pdmp": _rival("PDMP", PDMP, ("best", (0, 1))),
    "aug": _rival("AUG", AUG, ("penalty", (0.5, 0.2))),
    "masam": _rival("MASAM", MASAM, ("rho", (0.3, 0.05))),
}

# The rows of the suite about rivals, those they are compared with first.
RIVALS_ENTRIES: dict[str, Entry] = {**HEADS_ENTRIES, **RIVALS}
