"""The commands and their options; of the extras, this needs tyro alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import tyro

from benchmarks.common.records import RESULTS, RUNS
from benchmarks.paper.settings import Settings

Name = Literal[
    "quick",
    "full",
    "skill",
    "competition",
    "heads",
    "rivals",
    "augmented",
    "longer",
    "apart",
    "rules",
    "decay",
    "older-rivals",
    "cheaper",
    "labels",
]


@dataclass(frozen=True)
class Fetch:
    """Download data sets and keep them in the cache."""

    names: tyro.conf.Positional[tuple[str, ...]] = ("all",)
    """Which, or all."""


@dataclass(frozen=True)
class Run:
    """Train what is not there yet."""

    suite: Name = "quick"
    """quick: five to fifteen minutes on two cores. full: an hour or two, tuning included.
    skill: labels by skill against their controls; it takes some tuning of the full suite.
    competition: tasks on which modalities compete, an hour or two.
    heads: labels by skill with heads of more weight, on these and on older tasks, two hours.
    rivals: twenty rivals, tuned, on the tasks of heads, two to three hours.
    augmented: four tasks more, on which modalities may compete, half an hour.
    longer: one of these tasks trained four times as long, an hour; it takes the tuning of heads.
    apart: what validation rows are used for, twenty minutes; it takes the tuning of heads.
    cheaper: MIDAS with fewer swaps, half an hour.
    labels: tags, a number, and modalities that are missing, an hour."""
    jobs: int = 2
    """How many runs at a time, each in a process with one thread."""
    out: Path = RUNS / "compare"
    """Where finished runs are looked for, and kept, and where the report goes. Published runs count
    as finished in runs/compare, and nowhere else: another folder begins from nothing."""


@dataclass(frozen=True)
class Report:
    """Write the tables and figures of a suite."""

    suite: Name = "quick"
    """Which."""
    out: Path = RUNS / "compare"
    """Where the finished runs are kept, as for run; the report goes there, too."""


@dataclass(frozen=True)
class Freeze:
    """Publish a suite: its finished runs as one file, sorted, a line each, and its report."""

    suite: tyro.conf.Positional[Name]
    """Which."""
    out: Path = RUNS / "compare"
    """Where the finished runs are kept, as for run."""
    into: Path = RESULTS
    """They become SUITE/runs.jsonl in here, with README.md and the figures beside it."""


@dataclass(frozen=True)
class Diagnose:
    """Train joint, plain swap and MIDAS on a task, and show what they do with its modalities."""

    task: tyro.conf.Positional[str]
    """One of the tasks, such as openmoji or kanji."""
    out: Path = RUNS / "compare"
    """Where the runs of a suite of the task are, for the tuned configurations, as for run; the page
    and its figure go to diagnosis in here."""


@dataclass(frozen=True)
class Probes:
    """Train four methods where modalities compete, and probe what their encoders have learned."""

    out: Path = RUNS / "compare"
    """Where the runs of the suite competition are, for the tuned configurations, as for run;
    probes.jsonl and the page go to competition in here."""


@dataclass(frozen=True)
class Speed:
    """Measure the speed of pairing, swap, loss and whole steps, and write the page."""

    device: Literal["cpu", "cuda"] = "cpu"
    """cuda does everything that a GPU is needed for, too."""
    out: Path = RUNS / "speed"
    """Where cpu.json, floor.json, cuda.json and the page are kept."""
    part: Literal["all", "floor"] = "all"
    """floor: of the CPU, what the missed goals stand on, and nothing else; some minutes."""
    small: bool = False
    """Tiny sizes and two rounds, to see that it works."""


@dataclass(frozen=True)
class Prepare:
    """Take sound and frames out of the videos of one of the paper's data sets, as check expects."""

    name: tyro.conf.Positional[str]
    """cremad or kinetics-sounds."""
    root: Path
    """Its folder: sound and frames go there, and lists of clips may be there."""
    videos: Path | None = None
    """Where the videos are, in this folder or in folders of it; by default in the root."""
    workers: int = 2
    """How many videos at a time."""


@dataclass(frozen=True)
class Check:
    """Look whether a copy of one of the paper's data sets is whole."""

    name: tyro.conf.Positional[str]
    """cremad, kinetics-sounds, ucf101, food101, mosi, sarcasm or twitter2015."""
    root: Path
    """Its folder."""


@dataclass(frozen=True)
class Reproduce:
    """Train by the paper's protocol or another; a stopped command goes on where it was."""

    name: tyro.conf.Positional[str]
    """As for check."""
    settings: tyro.conf.OmitArgPrefixes[Settings]
    method: tuple[str, ...] = ("joint", "midas")
    """Rows of the comparison: joint, midas, smv, mcr, ... (benchmarks/methods/entries.py)."""
    seeds: tuple[int, ...] = ()
    """Each has a split of its own. By default 0 1 2; for the protocol speakers 0 1 2 3 4, which are
    its five folds."""


@dataclass(frozen=True)
class Sample:
    """Write a small made-up copy of one of the paper's data sets, with tiny encoders for text."""

    name: tyro.conf.Positional[str]
    """As for check."""
    root: tyro.conf.Positional[Path]
    """Where to."""


@dataclass(frozen=True)
class Throughput:
    """Measure how many clips a second are read, and trained on, at the paper's sizes."""

    workers: int = 2
    """Processes that read."""
    steps: int = 2
    """Of training to time; 0: none."""


Command: TypeAlias = (
    Fetch
    | Run
    | Report
    | Freeze
    | Speed
    | Diagnose
    | Probes
    | Prepare
    | Check
    | Reproduce
    | Sample
    | Throughput
)


def parse(arguments: Sequence[str] | None = None, description: str | None = None) -> Command:
    """The command of a command line; of this process's by default."""
    return tyro.cli(
        Annotated[Fetch, tyro.conf.subcommand("fetch")]
        | Annotated[Run, tyro.conf.subcommand("run")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Freeze, tyro.conf.subcommand("freeze")]
        | Annotated[Speed, tyro.conf.subcommand("speed")]
        | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
        | Annotated[Probes, tyro.conf.subcommand("probes")]
        | Annotated[Prepare, tyro.conf.subcommand("prepare")]
        | Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
        | Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Throughput, tyro.conf.subcommand("throughput")],
        prog="python -m benchmarks",
        description=description,
        args=arguments,
    )
