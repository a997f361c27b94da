"""Does a second modality help? Characters by picture and meanings: a table, a figure, results.md.

What is trained and scored is in kanji.py. Here are the seeds, the processes and the progress bar.
A finished run is kept, so a demo that was stopped goes on where it was.

    python examples/demo.py                                  # picture and meanings
    python examples/demo.py --three --out runs/demo-three    # and readings

With --freeze the scores go to docs/demo.json, which README.md's table is made of.
"""

import hashlib
import json
import multiprocessing
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import product
from multiprocessing.queues import SimpleQueue
from pathlib import Path

try:
    import demo_figure
    import demo_report
    import kanji
    import torch
    import tyro
    from common import check_writable, replacing
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    import midas_aug
except ModuleNotFoundError as error:
    sys.exit(f"the demo needs {error.name}: from the checkout, pip install '.[demo]'")

FROZEN = Path(__file__).parents[1] / "docs" / "demo.json"
FIGURE = FROZEN.parent / "images" / "kanji.png"
PROGRESS: ContextVar["SimpleQueue[int]"] = ContextVar("PROGRESS")  # set in each worker


@dataclass(frozen=True)
class Options:
    """Compare joint training, a plain swap, MIDAS and labels by skill where modalities compete."""

    three: bool = False
    """The characters' readings as a third modality."""
    seeds: int = 3
    """How many seeds, from 0: each sets the split, the weights, the order and the draws."""
    epochs: int = 30
    """Epochs of a run."""
    out: Path = Path("runs/demo")
    """Where results.md, kanji.png and finished runs go."""
    jobs: int = 2
    """How many runs at a time, each in a process with one thread."""
    fresh: bool = False
    """Do not reuse finished runs."""
    freeze: bool = False
    """Keep the scores in docs/demo.json and the figure in docs/images, for README.md."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which are fused."""
        return kanji.MODALITIES if self.three else kanji.MODALITIES[:2]


@dataclass(frozen=True)
class Job:
    """A run of one method with one seed, and where it is kept."""

    method: str
    modalities: tuple[str, ...]
    seed: int
    epochs: int
    sources: str
    folder: Path

    @property
    def options(self) -> dict[str, object]:
        """All that the result depends on."""
        return {
            "method": self.method,
            "modalities": self.modalities,
            "seed": self.seed,
            "epochs": self.epochs,
            "sources": self.sources,
            "versions": demo_report.versions(),
        }

    @property
    def file(self) -> Path:
        """One for each choice of options."""
        key = hashlib.sha256(json.dumps(self.options).encode()).hexdigest()[:12]
        name = f"{self.method} {len(self.modalities)} seed{self.seed} {key}"
        return self.folder / (re.sub(r"[^a-zA-Z0-9]+", "-", name) + ".json")

    def run(self) -> None:
        """Train, and keep what the training tells."""
        records = []
        for record in kanji.train(self.method, self.modalities, self.seed, self.epochs):
            records.append(record._asdict())
            PROGRESS.get().put(1)
        with replacing(self.file) as partial:  # a file is never half a run
            partial.write_text(json.dumps({"options": self.options, "records": records}))

    def load(self) -> list[kanji.Record] | None:
        """What the run reported, epoch by epoch; None if it has to be trained (again)."""
        try:
            records = json.loads(self.file.read_text(encoding="utf-8"))["records"]
            loaded = [kanji.Record(**record) for record in records]
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError):
            print(f"{self.file} is damaged: this run is trained again", file=sys.stderr)
            return None
        return loaded if len(loaded) == self.epochs else None


def sources_digest() -> str:
    """One digest of the training script, its data and the package."""
    package = sorted(Path(midas_aug.__file__).parent.rglob("*.py"))
    digest = hashlib.sha256()
    for file in (Path(kanji.__file__), kanji.DATA, *package):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """Train what is not there yet, then report on all of it."""
    options = tyro.cli(Options, config=(tyro.conf.FlagCreatePairsOff,))
    check(options)
    console = Console(highlight=False)
    folder = options.out / "runs"
    check_writable(options.out / "results.md")
    check_writable(folder / "run.json")
    sources = sources_digest()
    jobs = [
        Job(method, options.modalities, seed, options.epochs, sources, folder)
        for seed, method in product(range(options.seeds), kanji.METHODS)
    ]
    missing = [job for job in jobs if options.fresh or job.load() is None]
    if len(missing) < len(jobs):
        console.print(f"{len(jobs) - len(missing)} of {len(jobs)} runs are there already: {folder}")
    try:
        train_all(missing, options.jobs, console)
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on from here.")

    runs = {
        method: [job.load() or [] for job in jobs if job.method == method]
        for method in kanji.METHODS
    }
    scores = demo_report.test_scores(runs)
    report = demo_report.summarise(scores, options.modalities)
    table, figure = options.out / "results.md", options.out / "kanji.png"
    console.print(demo_report.rich_table(report))
    table.write_text(demo_report.markdown(report, command(options)), encoding="utf-8")
    demo_figure.draw(runs, options.modalities, figure)
    console.print(f"Written: {table} and {figure}")
    console.print(demo_report.verdict(report), soft_wrap=True)
    if options.freeze:
        freeze(options, scores, runs)
        console.print("Frozen for README.md; now run: python docs/render.py")


def check(options: Options) -> None:
    """Turn what makes no sense into a message."""
    if min(options.seeds, options.epochs, options.jobs) < 1:
        sys.exit("--seeds, --epochs and --jobs start at 1")
    if options.freeze and options.three:
        sys.exit("--freeze is for what README.md shows: leave out --three")
    kanji.load_splits(options.modalities, torch.Generator())  # ends here if the data are damaged


def command(options: Options) -> str:
    """The command that repeats this demo, defaults spelled out."""
    words = ["python", "examples/demo.py", *(["--three"] if options.three else [])]
    for name in ("seeds", "epochs", "jobs", "out"):
        words += [f"--{name}", str(getattr(options, name))]
    return shlex.join(words)


def freeze(options: Options, scores: demo_report.Scores, runs: demo_report.Runs) -> None:
    """Keep scores and figure with the documentation."""
    frozen = {"epochs": options.epochs, "versions": demo_report.versions(), "test": scores}
    with replacing(FROZEN) as partial:
        partial.write_text(json.dumps(frozen, indent=1) + "\n", encoding="utf-8")
    demo_figure.draw(runs, options.modalities, FIGURE)


def train_all(jobs: Sequence[Job], workers: int, console: Console) -> None:
    """Run the jobs in processes of their own, with a bar over all their epochs."""
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    progress: SimpleQueue[int] = context.SimpleQueue()
    bar = Progress(
        TextColumn("training, {task.completed} of {task.total} epochs"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
    )
    with (
        bar,
        ProcessPoolExecutor(min(workers, len(jobs)), context, start_worker, (progress,)) as pool,
    ):
        task = bar.add_task("", total=sum(job.epochs for job in jobs))
        pending = {pool.submit(job.run) for job in jobs}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2)
                while not progress.empty():
                    bar.advance(task, progress.get())
                for future in done:
                    future.result()  # raises what the run raised
        except BaseException:
            console.print("Stopping as soon as the runs at hand are kept.")
            pool.shutdown(cancel_futures=True)
            raise


def start_worker(progress: "SimpleQueue[int]") -> None:
    """Set up a process: one thread, and no say in Ctrl-C, so that the run at hand is kept."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    PROGRESS.set(progress)


def end_with_parent() -> None:
    """A pool does not notice that its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


if __name__ == "__main__":
    main()
