"""The page of the speed results: goals beside measurements, then every case."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.common import palette
from benchmarks.common.markdown import table
from benchmarks.common.records import damaged, read_json, write_figure, write_text
from benchmarks.speed import floor
from benchmarks.speed.goals import CPU_GOALS, H100_GOALS, MAX_OPERATORS
from benchmarks.speed.loader import LOADER
from benchmarks.speed.measure import Result, Spread
from benchmarks.speed.phases import CLASSES, ROWS, WIDTH

Record = dict[str, Any]


def write_speed_report(folder: Path) -> list[Path]:
    """Write README.md and the figures from ``cpu.json``, ``floor.json`` and ``cuda.json``.

    What is not there is left out.

    Raises:
        DataError: One of them is damaged.
    """
    records = {
        kind: read_record(folder / f"{kind}.json")
        for kind in ("cpu", "floor", "cuda")
        if (folder / f"{kind}.json").exists()
    }
    figures = draw(results_of(records["cpu"]), folder) if "cpu" in records else []
    page = folder / "README.md"
    write_text(page, text(records, figures))
    return [page, *figures]


def read_record(file: Path) -> Record:
    """A kept run, with all that the page is made of.

    Raises:
        DataError: The file is damaged.
    """
    record = read_json(file)
    try:  # as the page does
        machine(record), tables(results_of(record))
        if file.stem == "floor":
            floors(record)
            return record
        operators(record), record["operators"]["ours"]
        if file.stem == "cpu":
            phases(record), throughput(results_of(record))
        if file.stem == "cuda":
            cuda_goals(record)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise damaged(file) from None
    return record


def results_of(record: Record) -> list[Result]:
    """The results of a kept run."""
    return [Result.from_json(result) for result in record["results"]]


def text(records: dict[str, Record], figures: Sequence[Path]) -> str:
    """The whole page."""
    parts = [
        "# Speed",
        "Written by `python -m benchmarks speed`. All variants of a case run in turn in one "
        "process, round after round; a number is the median of the ratios of the rounds, with "
        "quartiles. A ratio below 1 is faster than the reference. Why some goals are missed: "
        "[reading.md](reading.md). (A goal that compares two variants neither of which is the "
        "reference takes the ratio of their medians.) *clone* with backward is `repeat`; "
        "*rejection* gives up after 200 tries; *ours, input level* has equal shares and no "
        "unimodal heads.",
    ]
    if "cpu" in records:
        cpu = records["cpu"]
        parts += [
            "## Goals on the CPU",
            machine(cpu),
            cpu_goals(cpu),
            "## Operators",
            operators(cpu),
            "## Where a drop-in step goes",
            phases(cpu),
            *(
                ["## What the missed goals stand on", floors(records["floor"])]
                if "floor" in records
                else []
            ),
            "## Samples a second out of a DataLoader",
            throughput(results_of(cpu)),
        ]
    parts += ["## Goals on one H100", cuda_goals(records.get("cuda"))]
    parts += [f"![{file.stem.replace('-', ' ')}]({file.name})" for file in figures]
    for kind, record in ((k, r) for k, r in records.items() if k != "floor"):
        parts += [f"## Every case, {kind.upper()}", *tables(results_of(record))]
    return "\n\n".join(parts) + "\n"


def machine(record: Record) -> str:
    """Where and with what it was measured."""
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    return f"{record['device']}, {record['threads']} thread, {record['rounds']} rounds; {versions}."


def cpu_goals(record: Record) -> str:
    """Goals with the worst ratio of their cases."""
    results = results_of(record)
    rows = [
        (goal.text, f"≤ {number(goal.limit)}", measured, goal.limit)
        for goal in CPU_GOALS
        if (measured := goal.measured(results)) is not None
    ]
    ours = record["operators"]["ours"]
    rows.append(
        (
            "operators, heads forward and backward, draws included",
            f"≤ {MAX_OPERATORS}",
            ours["operators"],
            MAX_OPERATORS,
        )
    )
    rows.append(("host–device syncs in them", "0", ours["syncs"], 0))
    return table(
        ("goal", "limit", "measured, worst case", ""),
        [(name, limit, number(value), verdict(value, bound)) for name, limit, value, bound in rows],
    )


def cuda_goals(record: Record | None) -> str:
    """The table of the H100, or the table that waits for one."""
    checks = {} if record is None else record["checks"]
    rows = []
    for goal in H100_GOALS:
        value = checks.get(goal.check)
        shown = "not yet measured" if value is None else f"{number(value)} {goal.unit}".strip()
        limit = f"≤ {number(goal.limit)} {goal.unit}".strip()
        rows.append((goal.text, limit, shown, "" if value is None else verdict(value, goal.limit)))
    about = (
        "`python -m benchmarks speed --device cuda --out benchmarks/results/speed` fills this in, "
        "on one GPU in some minutes."
    )
    if record is not None:
        about = machine(record)
    return about + "\n\n" + table(("goal", "limit", "measured", ""), rows)


def operators(record: Record) -> str:
    """Operators and syncs of the steps."""
    rows = [
        (name, str(count["operators"]), str(count["syncs"]))
        for name, count in record["operators"].items()
    ]
    return table(("heads, forward and backward", "operators", "syncs"), rows)


def phases(record: Record) -> str:
    """Operators, calls of Python and time of each part of a drop-in step."""
    found = record["phases"]
    total = {key: sum(part[key] for part in found.values()) for key in next(iter(found.values()))}
    rows = [
        (
            name,
            str(part["operators"]),
            str(part["calls"]),
            number(part["microseconds"]),
            f"{part['microseconds'] / total['microseconds']:.0%}",
        )
        for name, part in [*found.items(), ("the whole step", total)]
    ]
    about = (
        f"{ROWS} rows, {WIDTH} features a modality, {CLASSES} classes. Operators are those that a "
        "GPU would get; calls are of Python functions, PyTorch's included."
    )
    head = ("part", "operators", "calls of Python", "µs, median", "of the step")
    return about + "\n\n" + table(head, rows)


def floors(record: Record) -> str:
    """Heads and pairing beside their operators alone, and heads where pages are kept."""
    results = results_of(record)
    kept = {
        tuple(result.size.values()): result for result in results if result.name == floor.HEADS_KEPT
    }
    rows = []
    for result in (result for result in results if result.name == floor.HEADS):
        micro = {name: spread.median for name, spread in result.microseconds.items()}
        same = kept.get(tuple(result.size.values()))
        for ours in floor.COMPARED[1:]:
            alone = micro[f"public code{floor.ALONE}"]
            rows.append(
                [
                    ours,
                    *(cell(result.size[key]) for key in ("N", "C")),
                    number(micro[ours]),
                    f"{micro[f'{ours}{floor.ALONE}'] / micro[ours]:.0%}",
                    spread(result.ratios[ours]),
                    number(micro[f"{ours}{floor.ALONE}"] / alone),
                    spread(None if same is None else same.ratios[ours]),
                ]
            )
    head = ("heads", "N", "C", "µs", "of it operators", "× the public code's")
    parts = [
        f"A run of its own (`--part floor`): {machine(record)}",
        "*Operators alone* are those of the step with their arguments, recorded once and called "
        "one after another, views left out: an eager step of these operators can hardly be faster. "
        "With *pages kept* glibc gives no freed memory back to the system.",
        table([*head, "operators alone, of both", "× the public code's, pages kept"], rows),
    ]
    for result in (result for result in results if result.name == floor.PAIRING):
        operators = int(result.size["operators"])
        additions = operators * result.ratios["one addition"].median
        parts.append(
            f"Pairing of 64 rows takes {number(result.ratios['ours'].median)} sorts. It has "
            f"{operators} operators, the sort included; as many additions of 64 numbers would take "
            f"{number(additions)}."
        )
    return "\n\n".join(parts)


def throughput(results: Sequence[Result]) -> str:
    """Samples a second of each way to collate."""
    loaders = [result for result in results if result.name == LOADER]
    names = list(loaders[0].microseconds) if loaders else []
    rows = [
        [
            *(cell(value) for value in result.size.values()),
            *(
                f"{number(1e6 * int(result.size['rows an epoch']) / spread.median)}"
                for spread in (result.microseconds[name] for name in names)
            ),
        ]
        for result in loaders
    ]
    return table([*(loaders[0].size if loaders else ()), *names], rows)


def tables(results: Sequence[Result]) -> list[str]:
    """One table a case, one row a size."""
    parts = []
    for name in dict.fromkeys(result.name for result in results):
        group = [result for result in results if result.name == name]
        variants = list(dict.fromkeys(key for result in group for key in result.ratios))
        sizes = list(group[0].size)
        reference = group[0].reference
        rows = [
            [
                *(cell(result.size[key]) for key in sizes),
                number(result.microseconds[reference].median),
                *(spread(result.ratios.get(key)) for key in variants if key != reference),
            ]
            for result in group
        ]
        others = [key for key in variants if key != reference]
        parts += [f"### {name}", table([*sizes, f"{reference}, µs", *others], rows)]
        held = [result for result in group if result.peak_bytes]
        if held:
            variants = list(held[0].peak_bytes)
            rows = [
                [
                    *(cell(result.size[key]) for key in sizes),
                    *(mebibytes(result.peak_bytes[key]) for key in variants),
                ]
                for result in held
            ]
            parts += ["Peak memory, MiB:", table([*sizes, *variants], rows)]
    return parts


def verdict(value: float, limit: float) -> str:
    """Whether a goal is met, and by how much it is missed."""
    if value <= limit:
        return "met"
    return "missed" if not limit else f"missed: {value / limit:.2f} × the limit"


def cell(value: int | str) -> str:
    """A size."""
    return f"{value:,}" if isinstance(value, int) else value


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def mebibytes(value: int) -> str:
    """Bytes as MiB."""
    return number(value / 2**20)


def spread(ratio: Spread | None) -> str:
    """Median and quartiles; nothing for what did not run."""
    if ratio is None:
        return ""
    return f"{number(ratio.median)} [{number(ratio.low)}–{number(ratio.high)}]"


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Pairing over N, and the heads."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = {
        "ours": (palette.BLUE, "o"),
        "any permutation": (palette.GREEN, "^"),
        "rejection": (palette.ORANGE, "D"),
        "dense multinomial": (palette.RED, "v"),
        "loop": (palette.GREY, "s"),
    }
    pairing = [
        result
        for result in results
        if result.name == "pairing" and result.size["C"] == 10 and result.size["skew"] == "95 %"
    ]
    for name, (color, marker) in shown.items():
        points = [(int(r.size["N"]), r.ratios[name]) for r in pairing if name in r.ratios]
        if not points:
            continue
        rows, ratios = zip(*points, strict=True)
        medians = [ratio.median for ratio in ratios]
        errors = [[r.median - r.low for r in ratios], [r.high - r.median for r in ratios]]
        left.errorbar(rows, medians, errors, color=color, marker=marker, label=name)
    left.set(
        xscale="log",
        yscale="log",
        xlabel="rows in the batch",
        ylabel="× torch.sort",
        title="Partners of another class; 10 classes, one with 95 %",
    )
    if pairing:
        left.legend(frameon=False)
    heads = [r for r in results if r.name == "heads"]
    widest = max((int(r.size["C"]) for r in heads), default=0)
    heads = [r for r in heads if r.size["C"] == widest]
    names = {"public code": palette.GREY, "ours": palette.BLUE, "ours, factored": palette.GREEN}
    for number_, (name, color) in enumerate(names.items()):
        medians = [r.ratios[name].median for r in heads]
        errors = [
            [r.ratios[name].median - r.ratios[name].low for r in heads],
            [r.ratios[name].high - r.ratios[name].median for r in heads],
        ]
        places = [place + 0.27 * (number_ - 1) for place in range(len(heads))]
        right.bar(places, medians, 0.25, yerr=errors, color=color, label=name)
    right.set_xticks(range(len(heads)), [f"N = {r.size['N']:,}" for r in heads])
    right.set(
        ylabel="× joint + unimodal heads",
        title=f"Heads, forward and backward; {widest} classes",
    )
    right.legend(frameon=False)
    path = folder / "speed.png"
    write_figure(path, figure, dpi=150)
    return [path]
