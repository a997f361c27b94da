"""One command: check the data, split it, train every method with every seed, and make the table."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.common import metrics
from benchmarks.common.errors import DataError
from benchmarks.common.records import (
    at_work_on,
    finite,
    need_writable,
    remove_leftovers,
    versions,
    write_json,
)
from benchmarks.methods.entries import ENTRIES
from benchmarks.methods.training import BATCH_SIZE
from benchmarks.paper.datasets import PAPER_DATA, paper_data
from benchmarks.paper.datasets.base import Clip, Found, PaperData, Part, describe
from benchmarks.paper.datasets.check import check
from benchmarks.paper.datasets.reading import Reader
from benchmarks.paper.datasets.splits import Split, saved_split
from benchmarks.paper.datasets.store import Store, build_stores
from benchmarks.paper.encoders import TINY, Sizes, build_model, load_tokenizer
from benchmarks.paper.kept import read_run
from benchmarks.paper.outcome import write_outcome
from benchmarks.paper.protocol import PROTOCOLS, Protocol, method_config
from benchmarks.paper.ranks import Ranks
from benchmarks.paper.settings import Settings
from benchmarks.paper.tables import write_table
from benchmarks.paper.training import Plan, Training, be_deterministic

REHEARSED = 20  # a rehearsal's classes, and clips of each


@dataclass(frozen=True)
class Prepared:
    """A data set, ready to train on."""

    data: PaperData
    protocol: Protocol
    sizes: Sizes
    found: Found
    clips: Sequence[Clip]  # of those, the ones of a rehearsal
    speaker_of: Callable[[str], str] | None  # by the name of a clip, if it is split by speaker
    stores: dict[str, Store]
    tokenizer: Any
    folder: Path  # of its splits, runs and table


def reproduce(
    name: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    ranks: Ranks,
    console: Console,
) -> None:
    """Train what is not there yet, then write the table and print it."""
    unknown = [method for method in methods if method not in ENTRIES]
    if unknown:
        raise DataError(f"there is no method {unknown[0]}; choose from {', '.join(ENTRIES)}")
    be_deterministic()
    prepared = prepare(name, settings, ranks, console)
    for seed in seeds:
        for method in methods:
            alone = ENTRIES[method].alone
            for modality in prepared.data.modalities if alone else (None,):
                run(prepared, method, seed, modality, settings, ranks, console)
    if ranks.rank == 0:
        title = prepared.data.title
        if settings.rehearse:
            title += " in rehearsal (the numbers mean nothing)"
        write_table(title, prepared.data, settings.protocol, prepared.folder, console)
        file = write_outcome(prepared.data, prepared.found, settings.protocol, prepared.folder)
        console.print(f"Written: {file}", soft_wrap=True, markup=False)


def prepare(name: str, settings: Settings, ranks: Ranks, console: Console) -> Prepared:
    """Check the files and build the cache; the first process does it, the others find it done."""
    data, sizes = paper_data(name), Sizes()
    protocol = replace(PROTOCOLS[name], name=settings.protocol)
    speaker_of = who_speaks(data, protocol)
    words = [name]
    if protocol.name != "paper":
        words.append(protocol.name)
    if settings.rehearse:
        words.append("rehearsal")
    folder = settings.out / "-".join(words)
    if settings.rehearse:
        warmup = min(1, protocol.warmup_epochs)
        protocol, sizes = replace(protocol, epochs=2, decay_every=1, warmup_epochs=warmup), TINY
    tokenizer = None
    if "text" in data.modalities.values():
        tokenizer = load_tokenizer(settings.text_encoder)
    with ranks.first_before_others():
        cache = [] if settings.cache is None else [settings.cache]
        need_writable(folder, folder / "runs", folder / "splits", settings.out / name, *cache)
        found = check(data, settings.root, console, settings.out / name / "checked.json")
        refuse_broken(data, found, settings, console)
        clips = rehearsal_clips(found.clips, speaker_of) if settings.rehearse else found.clips
        stores = {}
        if settings.cache is not None:
            stores = build_stores(
                data, clips, sizes.resolution, settings.cache, settings.jobs, console
            )
    return Prepared(data, protocol, sizes, found, clips, speaker_of, stores, tokenizer, folder)


def who_speaks(data: PaperData, protocol: Protocol) -> Callable[[str], str] | None:
    """Tells by a clip's name who speaks in it; None where the protocol does not ask.

    Raises:
        DataError: If it asks, and the data set does not say.
    """
    if protocol.name != "speakers":
        return None
    if data.speaker is None:
        able = ", ".join(name for name, one in PAPER_DATA.items() if one.speaker is not None)
        raise DataError(
            f"{data.title}: expected the protocol paper, got speakers, but nothing says who speaks "
            f"in a clip; leave --protocol out ({able} can be split by speaker)"
        )
    return data.speaker


def rehearsal_clips(
    clips: Sequence[Clip], speaker_of: Callable[[str], str] | None = None
) -> list[Clip]:
    """`REHEARSED` clips of each of so many classes at most, of a given split in each part.

    Of as many speakers as can be, where it is known who speaks.
    """
    if speaker_of is not None:
        clips = _by_turns(clips, speaker_of)
    classes = sorted({clip.label for clip in clips})[:REHEARSED]
    counts: Counter[tuple[int, Part | None]] = Counter()
    chosen = []
    for clip in clips:
        group = clip.label, clip.part
        if clip.label in classes and counts[group] < REHEARSED:
            counts[group] += 1
            chosen.append(clip)
    return chosen


def _by_turns(clips: Sequence[Clip], speaker_of: Callable[[str], str]) -> list[Clip]:
    """The first clip that every speaker has of a class, then the second ones, and so on."""
    counts: Counter[tuple[int, str]] = Counter()
    turns = []
    for clip in clips:
        group = clip.label, speaker_of(clip.name)
        turns.append(counts[group])
        counts[group] += 1
    return [clips[place] for place in sorted(range(len(clips)), key=turns.__getitem__)]


def refuse_broken(data: PaperData, found: Found, settings: Settings, console: Console) -> None:
    """Say what cannot be used, and stop unless it is to be left out.

    Raises:
        DataError: If there is something, and it is not to be left out.
    """
    if not found.problems:
        return
    summary = f"{data.title}, clips that cannot be used: {len(found.problems)}\n"
    summary += describe(found.problems)
    if not settings.leave_out_broken:
        raise DataError(f"{summary}\nrepair them, or go on without: --leave-out-broken")
    console.print(summary, markup=False)


def run(
    prepared: Prepared,
    method: str,
    seed: int,
    modality: str | None,
    settings: Settings,
    ranks: Ranks,
    console: Console,
) -> None:
    """One method with one seed, of a method that looks at one modality alone with this one.

    A finished run is kept in a JSON file and not made again.

    Raises:
        DataError: If there is such a run with other settings, or another process is at work on it.
    """
    name = f"{method if modality is None else f'{method}-{modality}'},seed={seed}"
    file = prepared.folder / "runs" / f"{name}.json"
    if ranks.rank > 0:
        _run(prepared, method, seed, modality, settings, ranks, console, file)
        return
    with at_work_on(file, prepared.folder / "locks" / name):
        remove_leftovers(file)
        remove_leftovers(_checkpoint(file))
        _run(prepared, method, seed, modality, settings, ranks, console, file)


def _checkpoint(file: Path) -> Path:
    """Where an unfinished run is kept."""
    return file.with_suffix(".checkpoint")


def _run(
    prepared: Prepared,
    method: str,
    seed: int,
    modality: str | None,
    settings: Settings,
    ranks: Ranks,
    console: Console,
    file: Path,
) -> None:
    data, protocol, clips = prepared.data, prepared.protocol, prepared.clips
    name = file.stem
    config = method_config(method, protocol)
    asked = {
        "entry": method,
        "modality": modality,
        "seed": seed,
        "config": config,
        "protocol": vars(protocol),
        "precision": settings.precision,
        "cached": bool(prepared.stores),
        "clips": len(clips),
    }
    if file.exists():
        kept = read_run(file, data)
        differing = [key for key, value in asked.items() if kept[key] != value]
        if differing:
            was = {key: kept[key] for key in differing}
            raise DataError(f"{file} is a run with {was}; move it away to make the new one")
        console.print(f"{name}: there already")
        return
    with ranks.first_before_others():
        kept_split = prepared.folder / "splits" / f"seed={seed}.json"
        split = saved_split(clips, seed, kept_split, prepared.speaker_of)
    kinds = {m: kind for m, kind in data.modalities.items() if modality in (None, m)}
    reader = Reader(kinds, prepared.sizes.resolution, prepared.tokenizer, prepared.stores)
    series = {m: clips[0].sources[m].shape for m, kind in kinds.items() if kind == "series"}  # type: ignore[union-attr]
    image_encoder = settings.image_encoder if protocol.pretrained_images else None
    model = build_model(
        data,
        kinds,
        series,
        prepared.sizes,
        seed,
        text_encoder=settings.text_encoder,
        image_encoder=image_encoder,
    )
    plan = Plan(
        epochs=protocol.epochs,
        decay_every=protocol.decay_every,
        learning_rate=protocol.learning_rate,
        seed=seed,
        protocol=protocol.name,
        precision=settings.precision,
        workers=settings.workers,
        save_every=settings.save_every,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    built = ENTRIES[method].build(config)
    training = Training(model, built, clips, reader, split, plan, device, ranks)
    checkpoint = _checkpoint(file)
    with _bar(f"{data.title}, {name}", console) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int) -> None:
            if bar.tasks[0].total is None:  # what was done before says nothing of the time left
                bar.reset(task, completed=done, total=total)
            bar.update(task, completed=done, total=total)

        training.run(checkpoint, show)
    record = asked | {
        "versions": versions(),
        "processes": ranks.size,
        "device": device_name(device),
        "text_encoder": settings.text_encoder if "text" in kinds.values() else None,
        "image_encoder": image_encoder,
        "epoch": training.best.epoch,
        "steps": training.steps,
        **score(training, split, seed),
    }
    if ranks.rank == 0:
        write_json(file, record)
        checkpoint.unlink(missing_ok=True)
    ranks.wait()


def device_name(device: torch.device) -> str:
    """What it trains on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def score(training: Training, split: Split, seed: int) -> dict[str, Any]:
    """Scores of the validation and of the test clips, with the best epoch's weights."""
    method = training.method
    encoded = training.encode(split.train)

    def of(places: NDArray[np.int64]) -> dict[str, float]:
        rows = metrics.Scored(training.encode(places), training.labels(places))
        scores = metrics.evaluate(method.predict, rows, encoded)
        with torch.no_grad():
            logits = method.predict(rows.features)
        # A random order: the lists on disk may be sorted by class.
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
        batches = metrics.batch_macro_f1(logits[order], rows.labels[order], BATCH_SIZE)
        return scores | {"batch_macro_f1": batches}

    return {"validation": finite(of(split.validation)), "test": finite(of(split.test))}


def _bar(what: str, console: Console) -> Progress:
    return Progress(
        TextColumn(what, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps,"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("left"),
        console=console,
    )
