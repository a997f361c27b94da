"""The rows of the suites after `full` and `skill`: where modalities compete, and other labels."""

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.methods.agm import AGM
from benchmarks.methods.amco import AMCo
from benchmarks.methods.aug import AUG
from benchmarks.methods.base import Method
from benchmarks.methods.cggm import CGGM
from benchmarks.methods.detached import Detached
from benchmarks.methods.entries import (
    NO_WARMUP,
    PLAIN,
    SKILL_LEADERS,
    Entry,
    Knob,
    Value,
)
from benchmarks.methods.inforeg import InfoReg
from benchmarks.methods.late_fusion import LateFusionOfUnimodal
from benchmarks.methods.lemda import LeMDA
from benchmarks.methods.lfm import LFM
from benchmarks.methods.masam import MASAM
from benchmarks.methods.mcr import MCR
from benchmarks.methods.midas import Midas
from benchmarks.methods.mixup import Mixup
from benchmarks.methods.mmpareto import MMPareto
from benchmarks.methods.modality_dropout import ModalityDropout
from benchmarks.methods.ogm import OGM
from benchmarks.methods.opm import OPM
from benchmarks.methods.pdmp import PDMP
from benchmarks.methods.powmix import PowMix
from benchmarks.methods.pretrained import Pretrained
from benchmarks.methods.reading import FittedHeads, FittedHeadsApart, FittedWeights, Reading
from benchmarks.methods.remix import DataRemixing
from benchmarks.methods.same_class import SameClass
from benchmarks.methods.skill import Skill
from benchmarks.methods.skill_rules import (
    SkillAndHardSamples,
    SkillCrossFitted,
    SkillOfAnyPartner,
    SkillOfMixedRows,
    SkillSetsWeight,
    SkillTimesConfidence,
)
from benchmarks.methods.smv import SMV
from benchmarks.methods.tcmax import TCMax
from benchmarks.methods.training import WEIGHT_DECAY
from benchmarks.methods.unimodal_losses import UnimodalLosses
from benchmarks.methods.zero_ablated import ARL, DGL, ZeroAblated

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

# Rows of `heads` that other suites have beside their own, with its tuning.
REFERENCES = ("late-fusion", "joint", "plain-swap", "skill-heads")
OLDER_REFERENCES = ("joint", "plain-swap", "midas", "skill-heads")

APART_LEADERS = {
    **{name: HEADS_LEADERS[name] for name in REFERENCES},
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


# The rows of the suite about older rivals, those they are compared with first.
OLDER: dict[str, Entry] = {
    "ogm": _rival("OGM", OGM, ("alpha", (0.8, 0.1)), noise=False),
    "powmix": _rival("PowMix", PowMix, ("clean_weight", (0, 1))),
    "lemda": _rival("LeMDA", LeMDA, ("adversarial_weight", (1e-4, 1e-3))),
    "smv": _rival("SMV", SMV, ("warmup", (1 / 12, 1 / 7))),
    "opm": _rival("OPM", OPM, ("q_base", (0.5, 0.4))),
    "amco": _rival("AMCo", AMCo, ("mask_space", ("logit", "feature"))),
    "lfm": _rival("LFM", LFM),
    "mcr": _rival("MCR", MCR, ("regularizer", (0.1, 0.01))),
}
OLDER_ENTRIES: dict[str, Entry] = {
    **{name: HEADS_ENTRIES[name] for name in (*OLDER_REFERENCES, "skill-heads-fitted-heads")},
    **OLDER,
}


def _rule(title: str, method: type[Skill], **fixed: Value) -> Entry:
    """Skill with heads × 3 and one thing changed."""
    fixed = {**HEAVY, "misaligned_weight": 1, **fixed}
    return Entry(title, method, fixed, follows="skill-heads", tuned=False)


RULES: dict[str, Entry] = {
    "skill-confidence": _rule("skill times confidence", SkillTimesConfidence),
    "skill-hard": _rule("skill, hard samples", SkillAndHardSamples),
    "skill-mixed": _rule("skill of mixed rows", SkillOfMixedRows),
    "skill-any": _rule("skill, partners of any class", SkillOfAnyPartner),
    "skill-folds": _rule("skill by cross-fitting", SkillCrossFitted),
    "skill-sets-weight": _rule("skill, λ from the skills", SkillSetsWeight),
    "skill-five": _rule("skill, λ = 5", Skill, misaligned_weight=5),
}
RULES_LEADERS = {
    **{name: HEADS_ENTRIES[name] for name in REFERENCES},
    **RULES,
}
# The rows of the suite about other rules to share a label by skill.
RULES_ENTRIES: dict[str, Entry] = {
    **RULES_LEADERS,
    "late-fusion-fitted": _fitted(RULES_LEADERS, "late-fusion"),
    **{
        f"{name}-fitted-heads": _fitted(RULES_LEADERS, name, FittedHeads)
        for name in ("skill-heads", *RULES)
    },
}

DECAYS = (WEIGHT_DECAY, 1e-3, 3e-3, 1e-2)  # the first one is that of all other suites
DECAYED = ("late-fusion", "joint", "plain-swap", "midas", "skill-heads")
DECAY_LEADERS = {
    **{name: HEADS_ENTRIES[name] for name in DECAYED},
    **{
        f"{name}-decay": replace(
            HEADS_ENTRIES[name],
            title=f"{HEADS_ENTRIES[name].title}, tuned decay",
            follows=name,
            decays=DECAYS,
        )
        for name in DECAYED
    },
}
# The rows of the suite about weight decay.
DECAY_ENTRIES: dict[str, Entry] = {
    **DECAY_LEADERS,
    "unimodal": replace(ALONE, follows="late-fusion-decay", read_off="late-fusion-decay"),
    **{
        f"{name}-fitted": _fitted(DECAY_LEADERS, name)
        for name in ("late-fusion", "late-fusion-decay")
    },
    **{
        f"{name}-fitted-heads": _fitted(DECAY_LEADERS, name, FittedHeads)
        for name in ("skill-heads", "skill-heads-decay")
    },
}
