"""What a row of the comparison is, and the rows of its first two suites: `full` and `skill`.

A row is a method, what is fixed in it, and what is tuned. The rows of the later suites are in
`benchmarks.methods.suite_entries`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TypeAlias

from benchmarks.methods.agm import AGM
from benchmarks.methods.amco import AMCo
from benchmarks.methods.base import Method
from benchmarks.methods.late_fusion import LateFusionOfUnimodal
from benchmarks.methods.lemda import LeMDA
from benchmarks.methods.lfm import LFM
from benchmarks.methods.mcr import MCR
from benchmarks.methods.midas import Midas, MidasPublicCode
from benchmarks.methods.mixup import Mixup
from benchmarks.methods.modality_dropout import ModalityDropout
from benchmarks.methods.ogm import OGM
from benchmarks.methods.opm import OPM
from benchmarks.methods.powmix import PowMix
from benchmarks.methods.reading import Alone, FittedWeights, Reading
from benchmarks.methods.skill import Skill
from benchmarks.methods.smv import SMV
from benchmarks.methods.unimodal_losses import UnimodalLosses

Value: TypeAlias = float | str
Knob: TypeAlias = tuple[str, tuple[Value, Value]]
Config: TypeAlias = dict[str, Value]  # of the optimiser, and hyper-parameters of the method

LEARNING_RATE, DECAY = OPTIMIZER = "learning_rate", "weight_decay"
FOUR_RATES = (0.003, 0.01, 0.03, 0.1)
TWO_RATES = (0.01, 0.03)


@dataclass(frozen=True)
class Entry:
    """A row of the tables.

    Every entry is tuned over four configurations: four learning rates, or two of them times two
    values of a hyper-parameter of its own. (In the skill suite: over the two.) Entries that follow
    another one take its tuned configuration and tune the learning rate alone, the weight decay
    alone, or nothing.

    Attributes:
        title: As printed.
        method: Built with ``fixed`` and the tuned hyper-parameters.
        fixed: Hyper-parameters that say what the entry is.
        knob: The tuned hyper-parameter and its two values; empty for none.
        follows: An entry whose tuned configuration this one starts from.
        tuned: False for an entry that takes all of it.
        alone: One modality a run, the others are not looked at.
        rates: The learning rates, where there is no knob; the first one is the default.
        decays: The weight decays, in place of learning rates; see ``follows``.
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
    decays: tuple[float, ...] = ()
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
        if self.decays:
            return [{DECAY: decay} for decay in self.decays]
        if self.knob is None:
            return [{LEARNING_RATE: rate} for rate in self.rates]
        name, values = self.knob
        return [{LEARNING_RATE: rate, name: value} for rate, value in product(TWO_RATES, values)]

    def build(self, config: Config) -> Method:
        """The method with this configuration."""
        tuned = {name: value for name, value in config.items() if name not in OPTIMIZER}
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
