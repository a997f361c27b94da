"""Suites: which runs there are, in which order, and where a finished one is kept."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Literal, TypeAlias

import torch

from benchmarks.common.errors import DataError
from benchmarks.common.records import RESULTS, RUNS, finite, versions, write_json
from benchmarks.compare.kept import (
    FROZEN,
    Identity,
    Record,
    read_folder,
    read_run,
    read_runs,
    write_runs,
)
from benchmarks.compare.tasks import (
    AUGMENTED,
    COMPARE,
    COMPETITION,
    LABELS,
    REAL,
    TASKS,
    split_of,
)
from benchmarks.compare.train import Outcome, regime_of, train_readings
from benchmarks.methods.entries import (
    ENTRIES,
    SKILL_ENTRIES,
    Config,
    Entry,
    Value,
    config_words,
)
from benchmarks.methods.reading import Reading
from benchmarks.methods.suite_entries import (
    APART_ENTRIES,
    CHEAPER_ENTRIES,
    COMPETITION_BESIDE,
    COMPETITION_ENTRIES,
    DECAY_ENTRIES,
    DECAYED,
    HEADS_ENTRIES,
    LABEL_ENTRIES,
    OLDER_ENTRIES,
    OLDER_REFERENCES,
    REFERENCES,
    RIVALS_ENTRIES,
    RULES_ENTRIES,
)

KEPT = RUNS / "compare"

OLD = ("digits-3", "openmoji", "stamps-3", "watch", "brca")  # where nothing beat joint training

BESIDE_SEEDS = 3

Phase = Literal["tune", "test"]
Frozen: TypeAlias = tuple[tuple[str, Value], ...]  # a configuration, hashable


@dataclass(frozen=True)
class Suite:
    """A set of tasks and seeds; every entry runs on all of them.

    Attributes:
        tasks: Names of `TASKS`.
        seeds: How many, from ``first_seed``.
        headline_seeds: How many for the entries of `HEADLINE`, where these have more.
        tuning_seeds: Splits of their own, for tuning. None at all: the default configurations.
        first_seed: See ``seeds``.
        entries: The rows.
        borrowed: Rows whose tuning is that of another suite.
        lender: That suite.
        beside: Rows on `BESIDE_SEEDS` seeds only, about which no claim is made.
    """

    tasks: tuple[str, ...]
    seeds: int
    headline_seeds: int | None = None
    tuning_seeds: tuple[int, ...] = ()
    first_seed: int = 0
    entries: Mapping[str, Entry] = field(default_factory=lambda: ENTRIES)
    borrowed: tuple[str, ...] = ()
    lender: str = "full"
    beside: tuple[str, ...] = ()

    def seeds_of(self, entry: str) -> range:
        """The splits that an entry is tested on."""
        count = self.seeds
        if self.headline_seeds is not None and entry in HEADLINE:
            count = self.headline_seeds
        if entry in self.beside:
            count = BESIDE_SEEDS
        return range(self.first_seed, self.first_seed + count)


SUITES = {
    "quick": Suite(("digits-2", "digits-3", "openmoji"), seeds=3),
    "full": Suite(REAL, seeds=5, headline_seeds=10, tuning_seeds=(1000, 1001)),
    "skill": Suite(
        COMPARE,
        seeds=10,
        tuning_seeds=(1000, 1001),
        first_seed=2000,
        entries=SKILL_ENTRIES,
        borrowed=("joint", "unimodal-losses", "modality-dropout"),
    ),
    "competition": Suite(
        COMPETITION,
        seeds=5,
        tuning_seeds=(1000,),
        first_seed=3000,
        entries=COMPETITION_ENTRIES,
        beside=tuple(COMPETITION_BESIDE),
    ),
    "heads": Suite(
        (*COMPETITION, *OLD),
        seeds=10,
        tuning_seeds=(1000,),
        first_seed=5000,
        entries=HEADS_ENTRIES,
    ),
    "longer": Suite(
        ("kanji-long",),
        seeds=5,
        tuning_seeds=(1000,),
        first_seed=8000,
        entries=HEADS_ENTRIES,
        borrowed=tuple(HEADS_ENTRIES),
        lender="heads",
    ),
    "rivals": Suite(
        (*COMPETITION, *OLD),
        seeds=5,
        tuning_seeds=(1000,),
        first_seed=9000,
        entries=RIVALS_ENTRIES,
        borrowed=tuple(HEADS_ENTRIES),
        lender="heads",
    ),
    "augmented": Suite(
        AUGMENTED,
        seeds=5,
        tuning_seeds=(1000,),
        first_seed=11000,
        entries=HEADS_ENTRIES,
    ),
    "apart": Suite(
        ("kanji", "kanji3", "watch"),
        seeds=5,
        tuning_seeds=(1000,),
        first_seed=12000,
        entries=APART_ENTRIES,
        borrowed=REFERENCES,
        lender="heads",
    ),
    "older-rivals": Suite(
        ("kanji", "kanji3", "kanji-words"),
        seeds=5,
        tuning_seeds=(1000,),
        first_seed=13000,
        entries=OLDER_ENTRIES,
        borrowed=OLDER_REFERENCES,
        lender="heads",
    ),
    "rules": Suite(
        ("kanji", "kanji3", "kanji-words", "openmoji", "brca"),
        seeds=5,
        tuning_seeds=(1000,),
        first_seed=14000,
        entries=RULES_ENTRIES,
        borrowed=REFERENCES,
        lender="heads",
    ),
    "decay": Suite(
        ("kanji", "kanji-words"),
        seeds=5,
        tuning_seeds=(1000,),
        first_seed=15000,
        entries=DECAY_ENTRIES,
        borrowed=DECAYED,
        lender="heads",
    ),
    "cheaper": Suite(
        ("kanji", "kanji-words", "openmoji"),
        seeds=5,
        first_seed=6000,
        entries=CHEAPER_ENTRIES,
    ),
    "labels": Suite(
        LABELS,
        seeds=10,
        tuning_seeds=(1000,),
        first_seed=4000,
        entries=LABEL_ENTRIES,
    ),
}

# The pairs that claims are made about.
HEADLINE = (
    "late-fusion",
    "joint",
    "unimodal-losses",
    "modality-dropout",
    "plain-swap",
    "plain-swap-warmup",
    "midas",
)


def entries_of(folder: Path) -> Mapping[str, Entry]:
    """The rows of the suite that is kept in a folder."""
    suite = SUITES.get(folder.name)
    return ENTRIES if suite is None else suite.entries


def beside_of(folder: Path) -> tuple[str, ...]:
    """The rows of that suite about which no claim is made."""
    suite = SUITES.get(folder.name)
    return () if suite is None else suite.beside


def frozen_file(folder: Path) -> Path:
    """Where the frozen runs are that a suite's folder goes on from; in `KEPT`, the published."""
    return (RESULTS / folder.name if _is_kept(folder.parent) else folder) / FROZEN


def _is_kept(root: Path) -> bool:
    return root.resolve() == KEPT.resolve()  # however it was spelled


def load_records(folder: Path) -> list[Record]:
    """All finished runs of the suite in a folder, frozen or not.

    Raises:
        DataError: A file is damaged.
    """
    return list(read_folder(frozen_file(folder), folder).values())


def freeze(name: str, root: Path, into: Path) -> Path:
    """Write the runs of a suite's plan into ``into/NAME/runs.jsonl``, and return that file.

    Runs that are kept elsewhere (tuning that another suite did) or that the plan does not hold (an
    earlier tuning chose them) are left out.

    Raises:
        DataError: A run of the plan is missing, or its file is damaged.
    """
    jobs = [job for _, stage in finished_stages(name, root) for job in stage]
    own = dict.fromkeys(job for job in jobs if job.folder == root / name)
    file = into / name / FROZEN
    write_runs(file, [job.load() for job in own])
    return file


def finished_stages(name: str, root: Path) -> Iterator[tuple[str, list["Job"]]]:
    """As `stages`, of a suite whose runs are all there.

    Raises:
        DataError: One is missing.
    """
    for title, jobs in stages(name, root):
        missing = [job for job in jobs if not job.finished]
        if missing:
            raise DataError(
                f"{title}: {len(missing)} of {len(jobs)} runs are missing; run first: "
                f"python -m benchmarks run --suite {missing[0].folder.name}"
                f"{missing[0].out_option}"
            )
        yield title, jobs


@dataclass(frozen=True)
class Job:
    """One run and the file it is kept in."""

    folder: Path
    task: str
    entry: str
    config: Frozen
    seed: int
    phase: Phase
    modality: str | None = None  # of an entry that looks at one alone

    @property
    def identity(self) -> Identity:
        """What tells it from every other run."""
        config = tuple(sorted(self.config))
        epochs = TASKS[self.task].epochs
        return Identity(self.task, self.phase, self.entry, self.modality, config, self.seed, epochs)

    @property
    def file(self) -> Path:
        """Where it is kept until the suite is frozen; the words are for people."""
        name = self.entry if self.modality is None else f"{self.entry}-{self.modality}"
        words = ",".join([name, *config_words(self.config), f"seed={self.seed}"])
        return self.folder / self.task / self.phase / f"{words},{self.identity.digest}.json"

    @property
    def finished(self) -> bool:
        """Whether it needs no training any more."""
        return self.identity in read_runs(frozen_file(self.folder)) or self.file.exists()

    @property
    def out_option(self) -> str:
        """What a command line needs to find its folder."""
        root = self.folder.parent
        return "" if _is_kept(root) else f" --out {root}"

    @property
    def weight(self) -> float:
        """Of the time left."""
        return TASKS[self.task].weight

    def run(self) -> None:
        """Train, and keep what came out, of the entries that read this training too."""
        torch.set_num_threads(1)
        task, entry = TASKS[self.task], entries_of(self.folder)[self.entry]
        if entry.read_off is not None:
            if not self.finished:
                replace(self, entry=entry.read_off, modality=None).run()
            return
        modalities = task.modalities if self.modality is None else (self.modality,)
        jobs = {job.file.name: job for job in (self, *self._readers())}
        config = dict(self.config)
        outcomes = train_readings(
            entry.build(config),
            split_of(task, self.seed, modalities),
            {name: job.reading for name, job in jobs.items()},
            regime_of(task, config, self.seed),
            test=self.phase == "test",
        )
        for name, job in jobs.items():
            job.keep(outcomes[name])

    @property
    def reading(self) -> Reading:
        """How the trained model is read."""
        return entries_of(self.folder)[self.entry].reading(self.modality)

    def _readers(self) -> Iterator["Job"]:
        """The jobs that need no training but this one."""
        if self.phase == "test":
            for name, entry in entries_of(self.folder).items():
                if entry.read_off == self.entry:
                    for modality in _modalities(self.task, entry):
                        yield replace(self, entry=name, modality=modality)

    def keep(self, outcome: Outcome) -> None:
        """Write what a run told."""
        record = {
            "task": self.task,
            "entry": self.entry,
            "modality": self.modality,
            "phase": self.phase,
            "seed": self.seed,
            "config": dict(self.config),
            "epochs": TASKS[self.task].epochs,
            "versions": versions(),
            **outcome._asdict(),
        }
        record["validation"], record["test"] = map(finite, (outcome.validation, outcome.test))
        write_json(self.file, record)

    def load(self) -> Record:
        """What the finished run told.

        Raises:
            DataError: It is not there, or its file is damaged.
        """
        frozen = read_runs(frozen_file(self.folder)).get(self.identity)
        if frozen is not None:
            return frozen
        try:
            return read_run(self.file)
        except FileNotFoundError:
            raise DataError(
                f"{self.task}: a run of {self.entry} is missing ({self.phase}, seed {self.seed}); "
                f"run first: python -m benchmarks run --suite {self.folder.name}"
                f"{self.out_option}"
            ) from None


def run_job(job: Job) -> Job:
    """Run a job in a worker process."""
    job.run()
    return job


def stages(name: str, root: Path = KEPT) -> Iterator[tuple[str, list[Job]]]:
    """The jobs of a suite, stage by stage; each stage needs the results of the one before."""
    suite, folder = SUITES[name], root / name
    entries = entries_of(folder)
    for title, following in (("tuning", False), ("tuning of what follows", True)):
        if suite.tuning_seeds:
            jobs = [
                job
                for task in suite.tasks
                for entry in entries
                if (entries[entry].follows is not None) is following
                for job in tuning_jobs(folder, task, entry, suite.tuning_seeds)
            ]
            yield title, list(dict.fromkeys(jobs))  # a task may be tuned as another one is
    # Row by row, so that a suite that was stopped has whole rows.
    yield (
        "test",
        [
            job
            for entry in entries
            for task in suite.tasks
            for job in final_jobs(name, task, entry, root)
        ],
    )


def tuning_jobs(folder: Path, task: str, entry: str, seeds: Sequence[int]) -> list[Job]:
    """Every configuration of an entry on every tuning seed."""
    suite = SUITES.get(folder.name)
    if suite is not None and entry in suite.borrowed:
        return tuning_jobs(folder.parent / suite.lender, task, entry, seeds)
    task = TASKS[task].tuned_as or task
    spec = entries_of(folder)[entry]
    if not spec.tuned:
        return []
    start = _start(folder, task, entry, seeds)
    return [
        Job(folder, task, entry, tuple({**start, **config}.items()), seed, "tune", modality)
        for modality in _modalities(task, spec)
        for config in spec.configs()
        for seed in seeds
    ]


def final_jobs(name: str, task: str, entry: str, root: Path = KEPT) -> list[Job]:
    """The runs of an entry that the tables are made of."""
    suite, folder = SUITES[name], root / name
    spec = entries_of(folder)[entry]
    return [
        Job(folder, task, entry, tuple(config.items()), seed, "test", modality)
        for modality in _modalities(task, spec)
        for config in [best_config(folder, task, entry, suite.tuning_seeds, modality)]
        for seed in suite.seeds_of(entry)
    ]


def best_config(
    folder: Path, task: str, entry: str, seeds: Sequence[int], modality: str | None = None
) -> Config:
    """The configuration with the highest mean validation score over the tuning seeds.

    That is accuracy, for classes. Of equals, the one with the lowest loss. Without tuning seeds,
    the default.
    """
    spec = entries_of(folder)[entry]
    start = _start(folder, task, entry, seeds)
    if not spec.tuned:
        return start
    if not seeds:
        return {**start, **spec.configs()[0]}
    runs: dict[Frozen, list[Mapping[str, float | None]]] = {}
    for job in tuning_jobs(folder, task, entry, seeds):
        if job.modality == modality:
            runs.setdefault(job.config, []).append(job.load()["validation"])

    main = TASKS[task].kind.main
    best = max(runs.items(), key=lambda item: _quality(item[1], main))
    return dict(best[0])


def _quality(runs: Sequence[Mapping[str, float | None]], main: str) -> tuple[float, float]:
    """Mean score, and the mean loss turned round; a diverged run has none."""
    scores, losses = ([run[name] for run in runs] for name in (main, "nll"))
    return (
        mean(-math.inf if score is None else score for score in scores),
        -mean(math.inf if loss is None else loss for loss in losses),
    )


def _start(folder: Path, task: str, entry: str, seeds: Sequence[int]) -> Config:
    """The configuration of the entry that this one follows."""
    followed = entries_of(folder)[entry].follows
    return {} if followed is None else best_config(folder, task, followed, seeds)


def _modalities(task: str, entry: Entry) -> tuple[str | None, ...]:
    return TASKS[task].modalities if entry.alone else (None,)
