"""The speed benchmark: its variants do the same thing, its ratios and goals are what they say."""

import functools
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.common.errors import DataError
from benchmarks.speed import (
    beyond,
    cuda,
    floor,
    goals,
    loader,
    losses,
    pairing,
    phases,
    report,
    run,
    step,
    swap,
)
from benchmarks.speed.measure import Case, Result, Spread, measure, peak_bytes
from benchmarks.speed.operators import OperatorCount, count_operators
from tests.test_cost import CALLS

CPU = torch.device("cpu")
RESULTS = Path("benchmarks/results/speed")


def result(name, ratios, *, size=None, microseconds=None, peak=None, reference="floor"):
    return Result(
        name=name,
        size=size or {"N": 64},
        reference=reference,
        microseconds={
            key: Spread(value, value, value) for key, value in (microseconds or ratios).items()
        },
        ratios={key: Spread(value, value, value) for key, value in ratios.items()},
        peak_bytes=peak or {},
    )


def test_ratios_are_taken_round_by_round(monkeypatch):
    """A machine that slows down from round to round changes the times, and not the ratios."""
    clock = itertools.count()
    now = {"time": 0.0}
    monkeypatch.setattr("benchmarks.speed.measure.time.perf_counter", lambda: now["time"])

    def taking(seconds):
        def call():
            now["time"] += seconds * (1 + next(clock))

        return call

    case = Case("case", {}, {"a": taking(1.0), "b": taking(2.0)}, reference="a")
    measured = measure(case, CPU, rounds=20, seconds=1.0)
    assert measured.ratios["a"] == Spread(1, 1, 1)
    assert measured.ratios["b"].median == pytest.approx(2, rel=0.1)
    assert measured.microseconds["a"].high > 1.5 * measured.microseconds["a"].low


def test_the_peak_is_what_is_held_at_one_time():
    ones = torch.ones(1000)
    assert peak_bytes(lambda: (ones + 1).sum(), CPU) in range(4000, 4400)
    assert peak_bytes(lambda: [ones + 1, ones + 2], CPU) in range(8000, 8400)


def test_results_survive_json():
    before = result("case", {"floor": 1.0, "ours": 2.0}, peak={"ours": 3})
    assert Result.from_json(json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize("skew", pairing.SKEWS)
def test_every_way_to_pair_finds_another_class(skew):
    labels = pairing.draw_labels(60, 4, skew, CPU)
    assert len(labels.unique()) > 1
    for pair in (pairing.loop, pairing.dense, pairing.rejection):
        assert (labels[pair(labels)] != labels).all()
    share = float((labels == 0).float().mean())
    assert {"uniform": share < 0.5, "zipf": share > 0.3, "95 %": share > 0.8}[skew]


def test_every_loss_has_the_same_gradient():
    """All but that of the hard labels, which is the floor."""
    gradients = {
        name: call()[0]
        for name, call in losses.variants(8, 5, CPU).items()
        if name != "hard labels"
    }
    for gradient in gradients.values():
        torch.testing.assert_close(gradient, gradients["ours"])


def test_every_swap_gives_the_same_rows():
    for case in swap.cases(CPU, small=True):
        got = {name: call() for name, call in case.variants.items()}
        if case.name == "swap":
            for rows in got.values():
                torch.testing.assert_close(rows, got["ours"])
        else:
            torch.testing.assert_close(got["ours"], got["x[index]"])
            torch.testing.assert_close(got["ours"], got["index_select"])


def test_the_steps_that_are_compared_train():
    heads = step.Heads.build(16, 8, 4, CPU)
    for name, call in heads.variants().items():
        heads.fusion.zero_grad()
        call()
        assert heads.fusion.weight.grad.isfinite().all(), name
        assert heads.fusion.weight.grad.abs().max() > 0, name
    before = heads.public_alpha
    heads.variants()["public code"]()
    assert abs(heads.public_alpha - before) == pytest.approx(0.05) or heads.public_alpha == 1


@pytest.mark.parametrize("module", [pairing, losses, loader])
def test_the_cases_run_at_small_sizes(module):
    for case in module.cases(CPU, small=True):
        measured = measure(case, CPU, rounds=1, seconds=1e-6)
        assert measured.ratios[case.reference].median == 1
        assert set(measured.ratios) == set(case.variants)


def test_whole_steps_run_at_small_sizes():
    for kind in ("MLP", "ResNet"):
        for call in step._whole(kind, 4, CPU, small=True).variants.values():
            call()


def test_more_modalities_and_a_transformer_run_at_small_sizes():
    cases = itertools.takewhile(lambda case: "compiled" not in case.name, beyond.cases(CPU, True))
    for case in cases:
        assert case.reference in case.variants
        for call in case.variants.values():
            call()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_the_steps_that_are_compiled_are_those_that_run_eagerly(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    *_, case = beyond.cases(CPU, True)
    assert list(case.variants) == [
        "joint, compiled",
        "ours, compiled",
        "joint, eager",
        "ours, eager",
    ]
    for call in case.variants.values():
        call()


def test_the_parts_of_a_step_add_up_to_its_operators():
    found = phases.measure_phases(rounds=2)
    whole = count_operators()["ours"]["operators"]
    assert sum(part["operators"] for part in found.values()) == whole
    assert all(part["calls"] > 0 and part["microseconds"] > 0 for part in found.values())


def test_calls_of_python_functions_are_counted():
    def inner():
        return len([1])

    assert phases.count_calls(lambda: (inner(), inner())) == 2


def test_operators_alone_are_those_that_do_work_with_the_gradients_they_give():
    heads = step.Heads.build(16, 8, 4, CPU)
    call = heads.variants()["joint + unimodal"]
    replay = floor.operators_alone(call)
    before = heads.fusion.weight.grad.clone()  # of two steps, the second with the recording
    replay()
    torch.testing.assert_close(heads.fusion.weight.grad, 1.5 * before)
    with OperatorCount() as count:
        call()
    with OperatorCount() as alone:
        replay()
    assert alone.operators == count.operators > 0


def test_what_the_missed_goals_stand_on_is_measured_and_written(tmp_path):
    files = run.run_floor(tmp_path, Console(quiet=True), small=True)
    assert {file.name for file in files} == {"floor.json", "README.md"}
    words = report.floors(report.read_record(tmp_path / "floor.json"))
    assert len(re.findall(r"^\| ours", words, flags=re.MULTILINE)) == 2
    assert re.search(r"sorts\. It has \d\d operators, .* would take [\d.]+\.$", words)


def test_another_allocator_is_left_alone(monkeypatch):
    monkeypatch.setattr(floor.ctypes, "CDLL", lambda name: object())
    with floor.pages_kept() as kept:
        assert not kept


def test_operators_are_counted_and_syncs_seen():
    counts = count_operators()
    assert counts["ours"]["syncs"] == counts["ours, factored"]["syncs"] == 0
    assert counts["public code"]["syncs"] > 0
    assert counts["ours"]["operators"] < counts["public code"]["operators"]
    with OperatorCount() as count:
        torch.ones(3)[torch.tensor([True, False, True])].view(2, 1).sum().item()
    assert count.waiting == ["aten.index", "aten._local_scalar_dense"]


def test_a_goal_takes_the_worst_of_its_cases():
    found = [
        result("pairing", {"torch.sort": 1, "ours": 2}, reference="torch.sort"),
        result(
            "pairing",
            {"torch.sort": 1, "ours": 3},
            reference="torch.sort",
            microseconds={"torch.sort": 10, "ours": 30, "loop": 300},
            peak={"ours": 6400, "torch.sort": 3200},
        ),
        result("pairing", {"torch.sort": 1, "ours": 9}, size={"N": 8}, reference="torch.sort"),
    ]

    def at_64(size):
        return size["N"] == 64

    goal = goals.Goal("", 1, "pairing", "ours", "torch.sort", at_64)
    assert goal.measured(found) == 3
    assert goals.Goal("", 1, "loss", "ours", "hard labels").measured(found) is None
    with_loop = [found[1]]
    assert goals.Goal("", 1, "pairing", "ours", "loop", at_64).measured(with_loop) == 0.1
    bytes_a_row = goals.Goal("", 1, "pairing", "ours", "", at_64, of="bytes a row")
    assert bytes_a_row.measured(with_loop) == 100
    memory = goals.Goal("", 1, "pairing", "ours", "torch.sort", at_64, of="memory")
    assert memory.measured(with_loop) == 2
    assert report.verdict(1.0, 1.0) == "met"
    assert report.verdict(3.0, 2.0) == "missed: 1.50 × the limit"
    assert report.verdict(2.0, 0.0) == "missed"


def test_a_run_writes_its_record_and_the_page_says_what_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_cases", lambda device, small: losses.cases(device, small=True))
    files = run.run_speed(CPU, tmp_path, Console(quiet=True), small=True)
    assert {file.name for file in files} == {"cpu.json", "floor.json", "README.md", "speed.png"}
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert page.count("not yet measured") == len(goals.H100_GOALS)
    assert "| loss: × cross-entropy of hard labels | ≤ 1.15 |" in page


def test_a_gpu_run_that_ends_early_leaves_its_checks_to_the_page(tmp_path, monkeypatch):
    checks = {goal.check: 1.0 for goal in goals.H100_GOALS}
    monkeypatch.setattr(cuda, "run_checks", lambda *args, **kwargs: checks)
    monkeypatch.setattr(run, "device_name", lambda device: "a GPU")

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_cases", stop)
    with pytest.raises(KeyboardInterrupt):
        run.run_speed(torch.device("cuda"), tmp_path, Console(quiet=True), small=True)
    assert report.read_record(tmp_path / "cuda.json")["checks"] == checks
    assert "not yet measured" not in report.cuda_goals(report.read_record(tmp_path / "cuda.json"))


def test_a_gpu_run_fills_the_table_in(monkeypatch):
    """The command's whole path with a CUDA that is none: graphs that run what they captured."""
    monkeypatch.setattr(cuda, "captured", lambda call: call)
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    checks = cuda.run_checks(CPU, rounds=1, seconds=1e-6, small=True)
    assert modes == ["error", "default"]
    assert {goal.check for goal in goals.H100_GOALS} <= set(checks)
    assert checks["syncs"] == checks["stale replays"] == 0
    assert checks["error"] < 1e-4
    record = {"device": "a GPU", "threads": 1, "rounds": 1, "versions": {}, "checks": checks}
    assert "not yet measured" not in report.cuda_goals(record)


def test_a_graph_that_repeats_itself_and_a_step_that_waits_are_found(monkeypatch):
    monkeypatch.setattr(cuda, "captured", lambda call: lambda: None)
    assert cuda.stale_replays(CPU, replays=3) == 6

    def refuse(mode):
        if mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: refuse("error"))
    assert cuda.waits(CPU) == 1


@pytest.mark.parametrize("name", ["device", "versions", "operators", "results", "rounds"])
def test_a_damaged_record_is_named(tmp_path, name):
    record = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8"))
    file = tmp_path / "cpu.json"
    texts = ["{", json.dumps({key: record[key] for key in record if key != name})]
    for text in [*texts, json.dumps({**record, "results": [{}]})]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"cpu\.json is damaged, delete it"):
            report.write_speed_report(tmp_path)
    assert list(tmp_path.iterdir()) == [file]


def test_the_kept_page_is_what_the_kept_record_gives():
    records = {
        kind: json.loads((RESULTS / f"{kind}.json").read_text(encoding="utf-8"))
        for kind in ("cpu", "floor", "cuda")
        if (RESULTS / f"{kind}.json").exists()
    }
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert page == report.text(records, [RESULTS / "speed.png"])
    names = {found.name for found in report.results_of(records["cpu"])}
    assert {"pairing", "swap", "loss", "heads", "step, MLP", "step, ResNet", "NumPy path"} <= names


def test_the_numbers_of_the_docs_are_on_that_page():
    record = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8"))
    section = Path("docs/speed.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!---)(?!step)(.+?) \|(.+)\|$", section, flags=re.MULTILINE)
    assert rows
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    for _, cells in rows:
        for number in re.findall(r"\d+\.\d+ \[[^\]]+\]", cells):
            assert number in page
    assert np.isfinite(record["rounds"])


def test_the_words_about_calls_are_those_of_the_guard():
    words = " ".join((RESULTS / "reading.md").read_text(encoding="utf-8").split())
    (before, now), (loss_before, loss) = CALLS["augment"], CALLS["criterion"]
    assert f"makes {now} calls of Python functions, and the loss {loss}," in words
    assert f"where 0.1.0 made {before} and {loss_before} " in words


def test_the_words_about_the_floor_quote_it():
    words = " ".join((RESULTS / "reading.md").read_text(encoding="utf-8").split())
    found = report.results_of(report.read_record(RESULTS / "floor.json"))
    times = {
        (result.size["N"], result.size["C"]): {
            name: spread.median for name, spread in result.microseconds.items()
        }
        for result in found
        if result.name == floor.HEADS
    }
    first, *later = times
    assert first == (64, 6)

    def ratios(ours, theirs, sizes=tuple(times)):
        return [round(times[size][ours] / times[size][theirs], 2) for size in sizes]

    alone, whole = f"ours{floor.ALONE}", "public code"
    both = ratios(alone, whole + floor.ALONE)
    assert f"take {min(both)} to {max(both):.0f} times as long as those of the public" in words
    over = ratios(alone, whole, later)
    assert f"they alone take {min(over)} to {max(over)} times as long as its whole step" in words
    assert min(over) >= 0.95
    assert (
        f"{times[first][alone] / times[first]['ours']:.0%}".replace("%", " %") + " of the" in words
    )
    factored, large = f"ours, factored{floor.ALONE}", [size for size in times if size[0] >= 256]
    over = ratios(factored, whole, large)
    assert f"alone take {min(over)} to {max(over)} of the public code's whole step" in words
    (alone,), (step_,) = ratios(factored, whole, [first]), ratios("ours, factored", whole, [first])
    assert f"they take {alone}, below the goal of 0.7, and the step {step_}." in words
    (pairing_,) = (result for result in found if result.name == floor.PAIRING)
    assert f"It has {pairing_.size['operators']} operators" in words
    additions = int(pairing_.size["operators"]) * pairing_.ratios["one addition"].median
    assert 0.9 < additions / pairing_.ratios["ours"].median < 1
    assert 1.9 < 1 / pairing_.ratios["one addition"].median < 2.4  # "that of two"


def test_the_words_about_the_page_quote_it():
    record = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8"))
    reading = (RESULTS / "reading.md").read_text(encoding="utf-8")
    words = " ".join(reading.split())
    rows = re.findall(r"^\| ([^|]+) \|((?: \d+ \|){4})$", reading, flags=re.MULTILINE)
    now = {name: [int(cell) for cell in re.findall(r"\d+", cells)[1::2]] for name, cells in rows}
    found = {name: [part["operators"], part["calls"]] for name, part in record["phases"].items()}
    found["the whole step"] = [sum(column) for column in zip(*found.values(), strict=True)]
    assert now == found

    def ratio(name, variant, **size):
        (one,) = (
            result.ratios[variant].median
            for result in report.results_of(record)
            if result.name == name and size.items() <= result.size.items()
        )
        return one

    compiled = [
        f"{ratio('step, MLP, compiled', 'ours, compiled', N=n) - 1:.0%}".replace("%", " %")
        for n in (64, 256)
    ]
    assert "it is {} there and {} at batch 256".format(*compiled) in words
    assert f"compiled, it is {compiled[0]} with MLPs at batch 64" in " ".join(
        Path("docs/speed.md").read_text(encoding="utf-8").split()
    )
    mlp = [round(100 * (ratio("step, MLP", "ours", N=n) - 1)) for n in (64, 256, 1024, 8192)]
    assert (
        f"With MLPs it is {min(mlp[1:])} to {max(mlp[1:])} % from batch 256 on and {mlp[0]} % at "
        "batch 64"
    ) in words
    small = [ratio("augment and loss", "compiled", N=n) for n in (64, 256, 1024)]
    assert f"(augment and loss take {min(small):.2f} to {max(small):.2f} of their" in words
    over = {
        (n, c): ratio("heads", "ours", N=n, C=c) / ratio("heads", "public code", N=n, C=c)
        for n in (64, 256, 1024)
        for c in (6, 101)
    }
    speed = " ".join(Path("docs/speed.md").read_text(encoding="utf-8").split())
    low, high = (round(100 * (bound(over.values()) - 1)) for bound in (min, max))
    assert f"by {low} to {high} % with 6 and 101 classes up to batch 1,024" in speed
    each, one = (
        f"{ratio('step, transformer fusion', variant, N=64):.1f}"
        for variant in ("swap='each'", "swap='one'")
    )
    assert f'{each} times at batch 64, and {one} times with `swap="one"`' in words
    for kind in ("each", "one"):
        times = [f"{ratio('heads by modalities', f'swap={kind!r}', M=m):.1f}" for m in (2, 3, 4)]
        assert "{}, {} and {} times with ".format(*times) + f'`swap="{kind}"`' in words
