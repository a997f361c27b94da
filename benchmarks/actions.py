"""What the commands do."""

import sys
from pathlib import Path

import joblib
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.command_line import (
    Check,
    Command,
    Diagnose,
    Fetch,
    Freeze,
    Prepare,
    Probes,
    Report,
    Reproduce,
    Run,
    Sample,
    Speed,
    Throughput,
)
from benchmarks.common.errors import DataError
from benchmarks.common.records import need_writable, write_text
from benchmarks.compare import data, probes
from benchmarks.compare.diagnosis import diagnose_task
from benchmarks.compare.report import write_report
from benchmarks.compare.suite import (
    SUITES,
    Job,
    finished_stages,
    freeze,
    run_job,
    stages,
)
from benchmarks.compare.tasks import TASKS
from benchmarks.paper.datasets import paper_data
from benchmarks.paper.datasets.check import check
from benchmarks.paper.datasets.check import report as report_check
from benchmarks.paper.datasets.sample import write_image_encoder, write_sample, write_text_encoder
from benchmarks.paper.prepare import prepare_clips
from benchmarks.paper.prepare import report as report_prepared
from benchmarks.paper.protocol import SEEDS
from benchmarks.paper.ranks import start_ranks
from benchmarks.paper.run import reproduce
from benchmarks.paper.throughput import measure
from benchmarks.speed.run import run_floor, run_speed
from midas_aug.diagnostics.advice import steps


def perform(command: Command) -> None:
    """Do what a command says; what goes wrong with data or files is one line."""
    console = Console(highlight=False)
    try:
        if isinstance(command, Fetch):
            fetch(command, console)
        elif isinstance(command, Run):
            run(command, console)
        elif isinstance(command, Report):
            report(command, console)
        elif isinstance(command, Freeze):
            publish(command, console)
        elif isinstance(command, Speed):
            speed(command, console)
        elif isinstance(command, Diagnose):
            diagnose(command, console)
        elif isinstance(command, Probes):
            probe(command, console)
        elif isinstance(command, Prepare):
            prepare_copy(command, console)
        elif isinstance(command, Check):
            check_copy(command, console)
        elif isinstance(command, Reproduce):
            ranks = start_ranks()
            quiet = Console(highlight=False, quiet=ranks.rank > 0)
            seeds = command.seeds or SEEDS[command.settings.protocol]
            reproduce(command.name, command.method, seeds, command.settings, ranks, quiet)
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
    need_writable(data.cache_folder())
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
    folder = command.out / command.suite
    need_writable(folder)
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
    """Write tables and figures from the kept runs, once all are there."""
    need_writable(command.out / command.suite)
    for _ in finished_stages(command.suite, command.out):
        pass
    write(command.suite, command.out, console)


def publish(command: Freeze, console: Console) -> None:
    """Write the runs as one file, and tables and figures from that."""
    need_writable(command.into / command.suite)
    console.print(f"Written: {freeze(command.suite, command.out, command.into)}")
    write(command.suite, command.into, console)


def write(suite: str, folder: Path, console: Console) -> None:
    """Write tables and figures of a suite from the runs in a folder."""
    try:
        for file in write_report(suite, SUITES[suite].tasks, folder):
            console.print(f"Written: {file}")
    except ValueError as error:  # runs of another tuning are among them
        sys.exit(str(error))


def speed(command: Speed, console: Console) -> None:
    """Measure on the device, and say where the page is."""
    if command.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --device cpu measures on the CPU")
    need_writable(command.out)
    device = torch.device(command.device)
    if command.part == "floor":
        files = run_floor(command.out, console, small=command.small)
    else:
        files = run_speed(device, command.out, console, small=command.small)
    for file in files:
        console.print(f"Written: {file}")


def probe(command: Probes, console: Console) -> None:
    """Probe what is not probed yet, then write the page."""
    folder = command.out / probes.SUITE
    need_writable(folder)
    file, page = folder / "probes.jsonl", folder / "probes.md"
    for key in probes.run_probes(file, command.out):
        console.print(f"{key.task}, {key.entry}, seed {key.seed}: probed")
    write_text(page, probes.page(probes.read_probes(file)))
    console.print(f"Written: {page}")


def prepare_copy(command: Prepare, console: Console) -> None:
    """Print what came of the clips; fail if one is not whole."""
    data = paper_data(command.name)
    videos = command.root if command.videos is None else command.videos
    prepared = prepare_clips(data, command.root, videos, command.workers, console)
    console.print(report_prepared(data, command.root, prepared), markup=False, soft_wrap=True)
    if prepared.problems:
        sys.exit(1)


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
    need_writable(command.root)
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
    """Print the comparison, and of each model what it does and what to do; keep them, drawn."""
    if command.task not in TASKS:
        sys.exit(f"there is no task {command.task}; choose from {', '.join(TASKS)}")
    folder = command.out / "diagnosis"
    need_writable(folder)
    comparison = diagnose_task(command.task, command.out)
    figure, page = folder / f"{command.task}.png", folder / f"{command.task}.md"
    comparison.plot(figure)
    parts = [f"# {command.task}, test rows of seed 0", comparison.to_markdown()]
    parts += [f"![what each model makes of the modalities]({figure.name})"]
    for one in comparison.reports:
        parts += [f"## {one.name}", one.to_markdown()]
    write_text(page, "\n\n".join(part.strip() for part in parts) + "\n")
    console.print(str(comparison), markup=False, soft_wrap=True)
    for one in comparison.reports:
        findings = [f"- {found.text}" for found in one.findings]
        lines = [f"\n{one.name}:", *findings, "", *steps(one.advice)]
        console.print(*lines, sep="\n", markup=False, soft_wrap=True)
    console.print(f"Written: {page} and {figure}")
