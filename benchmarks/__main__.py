"""Fetch data, run a suite, write its tables and figures.

python -m benchmarks fetch all            # or digits, openmoji, stamps, watch, brca, kanji, …
python -m benchmarks run --suite quick    # or full, or skill; a stopped one goes on where it was
python -m benchmarks report --suite full  # from the kept runs alone
python -m benchmarks freeze full          # the kept runs as one file, results/full/runs.jsonl
python -m benchmarks speed                # pairing, swap, loss, steps: ratios and goals
python -m benchmarks diagnose openmoji    # what joint training, plain swap and MIDAS listen to

The paper's own data sets, from where you have them:

python -m benchmarks check cremad --root DIR        # is the copy whole?
python -m benchmarks reproduce cremad --root DIR    # the paper's protocol; its numbers and ours
python -m benchmarks sample cremad DIR              # a small made-up copy, to try the two on
python -m benchmarks throughput                     # does reading keep up with training?
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

try:
    import joblib
    import torch
    import tyro
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from benchmarks.common.errors import DataError
    from benchmarks.common.records import RESULTS, write_text
    from benchmarks.compare import data
    from benchmarks.compare.diagnosis import diagnose_task
    from benchmarks.compare.report import write_report
    from benchmarks.compare.suite import SUITES, Job, freeze, run_job, stages
    from benchmarks.compare.tasks import TASKS
    from benchmarks.paper.datasets import paper_data
    from benchmarks.paper.datasets.check import check
    from benchmarks.paper.datasets.check import report as report_check
    from benchmarks.paper.datasets.sample import (
        write_image_encoder,
        write_sample,
        write_text_encoder,
    )
    from benchmarks.paper.ranks import start_ranks
    from benchmarks.paper.run import Settings, reproduce
    from benchmarks.paper.throughput import measure
    from benchmarks.speed.run import run_speed
except ModuleNotFoundError as error:
    sys.exit(f"the benchmarks need {error.name}: pip install '.[bench]' in the checkout")

Name = Literal["quick", "full", "skill", "competition"]


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
    competition: tasks on which modalities compete, an hour or two."""
    jobs: int = 2
    """How many runs at a time, each in a process with one thread."""
    out: Path = RESULTS
    """Where the report goes and the finished runs are looked for, and kept; those that come to the
    published ones are kept in runs/compare until they are frozen."""


@dataclass(frozen=True)
class Report:
    """Write the tables and figures of a suite."""

    suite: Name = "quick"
    """Which."""
    out: Path = RESULTS
    """Where the finished runs are kept."""


@dataclass(frozen=True)
class Freeze:
    """Put the finished runs of a suite into one file, sorted, a line each."""

    suite: tyro.conf.Positional[Name]
    """Which."""
    out: Path = RESULTS
    """Where the finished runs are kept, as for run."""
    into: Path = RESULTS
    """The file is SUITE/runs.jsonl in here."""


@dataclass(frozen=True)
class Diagnose:
    """Train joint, plain swap and MIDAS on a task, and show what they do with its modalities."""

    task: tyro.conf.Positional[str]
    """One of the tasks, such as openmoji."""
    out: Path = RESULTS
    """Where the full suite's runs are, for the tuned configurations; the figure goes there too."""


@dataclass(frozen=True)
class Speed:
    """Measure the speed of pairing, swap, loss and whole steps, and write the page."""

    device: Literal["cpu", "cuda"] = "cpu"
    """cuda does everything that a GPU is needed for, too."""
    out: Path = RESULTS / "speed"
    """Where cpu.json, cuda.json and the page are kept."""
    small: bool = False
    """Tiny sizes and two rounds, to see that it works."""


@dataclass(frozen=True)
class Check:
    """Look whether a copy of one of the paper's data sets is whole."""

    name: tyro.conf.Positional[str]
    """cremad, kinetics-sounds, ucf101, food101, mosi, sarcasm or twitter2015."""
    root: Path
    """Its folder."""


@dataclass(frozen=True)
class Reproduce:
    """Train by the paper's protocol; a stopped command goes on where it was."""

    name: tyro.conf.Positional[str]
    """As for check."""
    settings: tyro.conf.OmitArgPrefixes[Settings]
    method: tuple[str, ...] = ("joint", "midas")
    """Rows of the comparison: joint, midas, smv, mcr, ... (benchmarks/methods/entries.py)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each has a split of its own."""


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
    Fetch | Run | Report | Freeze | Speed | Diagnose | Check | Reproduce | Sample | Throughput
)


def parse(arguments: Sequence[str] | None = None) -> Command:
    """The command of a command line; of this process's by default."""
    return tyro.cli(
        Annotated[Fetch, tyro.conf.subcommand("fetch")]
        | Annotated[Run, tyro.conf.subcommand("run")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Freeze, tyro.conf.subcommand("freeze")]
        | Annotated[Speed, tyro.conf.subcommand("speed")]
        | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
        | Annotated[Check, tyro.conf.subcommand("check")]
        | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
        | Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Throughput, tyro.conf.subcommand("throughput")],
        prog="python -m benchmarks",
        description=__doc__,
        args=arguments,
    )


def main() -> None:
    """Dispatch to the command."""
    command = parse()
    console = Console(highlight=False)
    try:
        if isinstance(command, Fetch):
            fetch(command, console)
        elif isinstance(command, Run):
            run(command, console)
        elif isinstance(command, Report):
            report(command, console)
        elif isinstance(command, Freeze):
            console.print(f"Written: {freeze(command.suite, command.out, command.into)}")
        elif isinstance(command, Speed):
            speed(command, console)
        elif isinstance(command, Diagnose):
            diagnose(command, console)
        elif isinstance(command, Check):
            check_copy(command, console)
        elif isinstance(command, Reproduce):
            ranks = start_ranks()
            quiet = Console(highlight=False, quiet=ranks.rank > 0)
            reproduce(command.name, command.method, command.seeds, command.settings, ranks, quiet)
            ranks.leave()
        elif isinstance(command, Throughput):
            throughput(command, console)
        else:
            sample(command, console)
    except DataError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on from here.")


def fetch(command: Fetch, console: Console) -> None:
    """Get each data set, or say what is missing for it, and go on with the next."""
    names = tuple(data.DATASETS) if command.names == ("all",) else command.names
    missing = []
    for name in names:
        try:
            data.fetch(name)
            console.print(f"{name}: ready")
        except DataError as error:
            missing.append(str(error))
    if missing:
        sys.exit("\n".join(missing))


def run(command: Run, console: Console) -> None:
    """Run the stages of a suite, then write its report."""
    for dataset in {TASKS[task].dataset for task in SUITES[command.suite].tasks}:
        data.load(dataset)  # a set that was not fetched is missed now, not in an hour
    for title, jobs in stages(command.suite, command.out):
        missing = [job for job in jobs if not job.finished]
        if len(missing) < len(jobs):
            console.print(
                f"{title}: {len(jobs) - len(missing)} of {len(jobs)} runs are there already"
            )
        run_all(missing, command.jobs, title, console)
    report(Report(command.suite, command.out), console)


def run_all(jobs: list[Job], workers: int, title: str, console: Console) -> None:
    """Run jobs in processes of their own, with the time left; it weighs runs by their task."""
    if not jobs:
        return
    bar = Progress(
        TextColumn(f"{title}, {{task.fields[done]}} of {len(jobs)} runs"),
        BarColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("left"),
        console=console,
    )
    with bar, joblib.parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
        progress = bar.add_task("", total=sum(job.weight for job in jobs), done=0)
        finished = joblib.Parallel(return_as="generator_unordered")(
            joblib.delayed(run_job)(job) for job in jobs
        )
        for done, job in enumerate(finished, start=1):
            bar.update(progress, advance=job.weight, done=done)


def report(command: Report, console: Console) -> None:
    """Write tables and figures from the kept runs."""
    try:
        for file in write_report(command.suite, SUITES[command.suite].tasks, command.out):
            console.print(f"Written: {file}")
    except ValueError as error:  # a run is missing, or of another tuning
        sys.exit(str(error))


def speed(command: Speed, console: Console) -> None:
    """Measure on the device, and say where the page is."""
    if command.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --device cpu measures on the CPU")
    device = torch.device(command.device)
    for file in run_speed(device, command.out, console, small=command.small):
        console.print(f"Written: {file}")


def check_copy(command: Check, console: Console) -> None:
    """Print the counts; fail if something cannot be used."""
    data = paper_data(command.name)
    found = check(data, command.root, console)
    console.print(report_check(data, found), markup=False, soft_wrap=True)
    if found.problems:
        sys.exit(1)


def sample(command: Sample, console: Console) -> None:
    """Write the copy, and tiny encoders beside it where a run needs them."""
    data = paper_data(command.name)
    write_sample(data.name, command.root)
    if "text" in data.modalities.values():
        write_text_encoder(command.root / "text-encoder")
        write_image_encoder(command.root / "image-encoder")
    console.print(f"Written: {command.root}", markup=False, soft_wrap=True)


def throughput(command: Throughput, console: Console) -> None:
    """Print clips a second."""
    speeds = measure(console, workers=command.workers, steps=command.steps)
    console.print(f"read from files, {command.workers} workers: {speeds.files:.0f} clips/s")
    console.print(f"read from the cache, {command.workers} workers: {speeds.cache:.0f} clips/s")
    if speeds.training is not None:
        console.print(f"joint training on this machine: {speeds.training:.1f} clips/s")


def diagnose(command: Diagnose, console: Console) -> None:
    """Print the comparison and the findings of each model, and keep them with a figure."""
    if command.task not in TASKS:
        sys.exit(f"there is no task {command.task}; choose from {', '.join(TASKS)}")
    comparison = diagnose_task(command.task, command.out)
    folder = command.out / "diagnosis"
    folder.mkdir(parents=True, exist_ok=True)
    figure, page = folder / f"{command.task}.png", folder / f"{command.task}.md"
    comparison.plot(figure)
    parts = [f"# {command.task}, test rows of seed 0", comparison.to_markdown()]
    parts += [f"![what each model makes of the modalities]({figure.name})"]
    for one in comparison.reports:
        parts += [f"## {one.name}", one.to_markdown()]
    write_text(page, "\n\n".join(part.strip() for part in parts) + "\n")
    console.print(str(comparison), markup=False, soft_wrap=True)
    for one in comparison.reports:
        console.print(f"\n{one.name}:", *(f"- {found.text}" for found in one.findings), sep="\n")
    console.print(f"Written: {page} and {figure}")


if __name__ == "__main__":
    main()
