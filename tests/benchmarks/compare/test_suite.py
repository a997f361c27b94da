"""Suites: entries, tuning, and that a stopped suite goes on where it was."""

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from joblib import parallel_config
from rich.console import Console

from benchmarks import actions
from benchmarks.command_line import Diagnose, Freeze, Report, Run
from benchmarks.common.errors import DataError
from benchmarks.common.records import versions, write_json
from benchmarks.compare import kept, suite
from benchmarks.compare.report import family, write_report
from benchmarks.compare.report.runs import load_runs
from benchmarks.compare.tasks import COMPARE, REAL, TASKS, Task
from benchmarks.methods.entries import DECAY, ENTRIES, FOUR_RATES, LEARNING_RATE, SKILL_ENTRIES
from benchmarks.methods.suite_entries import COMPETITION_ENTRIES, HEADS_ENTRIES
from midas_aug.diagnostics import diagnose
from tests.helpers import planted

ENTRIES_OF_THE_SMALL_SUITE = (
    "unimodal",
    "joint",
    "unimodal-losses",
    "modality-dropout",
    "plain-swap",
    "plain-swap-warmup",
    "midas",
    "midas-000",
)
JOB_FIELDS = ("task", "entry", "config", "seed", "phase")


@pytest.fixture
def small(monkeypatch):
    """A suite of few entries on the digits, one epoch a run."""
    entries = {name: ENTRIES[name] for name in ENTRIES_OF_THE_SMALL_SUITE}
    monkeypatch.setattr(suite, "ENTRIES", entries)
    monkeypatch.setitem(TASKS, "tiny", Task("digits", ("fou", "mor"), epochs=2, weight=1))
    settings = suite.Suite(("tiny",), seeds=1, headline_seeds=2, tuning_seeds=(1000,))
    monkeypatch.setitem(suite.SUITES, "small", settings)


def record_of(job, **told):
    """A finished run of a job that was never trained; ``told`` replaces what it tells."""
    record = {**job.identity._asdict(), "config": dict(job.config), "versions": versions()}
    record |= {"validation": {"accuracy": 0.5, "nll": 1.0}, "test": None, "epoch": 0}
    return record | {"steps": 100, "seconds": 2.0} | told


def made_up_scores(task, **told):
    """Made-up scores of the test rows; a model of one modality has no more than three."""
    scores = {"accuracy": 0.5, "macro_f1": 0.5, "nll": 1.0, "misaligned_accuracy": 0.3}
    for kind in ("without", "confidence", "shapley", "smv"):
        scores |= {f"{kind}.{m}": 0.25 for m in TASKS[task].modalities}
    return scores | told


def finish(jobs, accuracies):
    """Write the files of jobs, with the validation accuracy that ``accuracies`` tells."""
    for job in jobs:
        score = {"accuracy": accuracies(job), "nll": None}
        write_json(job.file, record_of(job, validation=score, test=made_up_scores(job.task)))


def test_every_entry_has_the_same_budget_and_builds():
    for name, entry in ENTRIES.items():
        configs = entry.configs()
        assert len(configs) == (4 if entry.tuned else 0), name
        assert len({tuple(sorted(config.items())) for config in configs}) == len(configs)
        assert {config[LEARNING_RATE] for config in configs} <= set(FOUR_RATES)
        for config in configs:
            entry.build(config)
        if entry.knob:  # the default of the method is the first value
            assert getattr(entry.method(), entry.knob[0]) == entry.knob[1][0], name
        if entry.follows:
            assert ENTRIES[entry.follows].follows is None


def test_methods_are_all_there():
    expected = """unimodal late-fusion joint mixup powmix lemda ogm ogm-ge agm smv opm amco lfm mcr
        unimodal-losses modality-dropout plain-swap plain-swap-warmup midas midas-public-code"""
    assert set(expected.split()) <= set(ENTRIES)
    assert sum(name.startswith("midas-") and name[-1] in "01" for name in ENTRIES) == 7
    assert set(suite.HEADLINE) <= set(ENTRIES)


def test_full_suite_plan(tmp_path):
    first = next(iter(suite.stages("full", tmp_path)))
    title, jobs = first
    assert title == "tuning"
    assert {job.task for job in jobs} == set(REAL)
    assert all(job.phase == "tune" and job.seed >= 1000 for job in jobs)
    counts = Counter((job.task, job.entry, job.modality) for job in jobs)
    assert set(counts.values()) == {4 * 2}
    assert counts["stamps-3", "unimodal", "speech"] == 8
    assert len({job.file for job in jobs}) == len(jobs)


def test_the_skill_suite_has_splits_of_its_own_and_matched_controls(tmp_path):
    for entry in SKILL_ENTRIES.values():
        for config in entry.configs():
            entry.build(config)
    stages = suite.stages("skill", tmp_path)
    for _ in range(2):
        title, jobs = next(stages)
        assert title.startswith("tuning")
        assert {job.seed for job in jobs} <= {1000, 1001}
        assert len(set(jobs)) == len(jobs)
        assert {job.task for job in jobs} <= set(REAL)  # the planted task is tuned as another one
        borrowed = {job.entry for job in jobs if job.folder == tmp_path / "full"}
        assert borrowed <= {"joint", "unimodal-losses", "modality-dropout"}
        finish(jobs, lambda job: dict(job.config)[LEARNING_RATE])
    title, jobs = next(stages)
    assert title == "test"
    assert {job.task for job in jobs} == set(COMPARE)
    used = range(2000, 2010)
    assert {job.seed for job in jobs} == set(used)
    assert len(jobs) == len(SKILL_ENTRIES) * len(COMPARE) * 10
    assert [job.entry for job in jobs[:90]] == ["joint"] * 90  # row by row
    weights = {
        key: SKILL_ENTRIES[key].build({LEARNING_RATE: 0.01}).misaligned_weight
        for key in SKILL_ENTRIES
        if key not in ("joint", "unimodal-losses", "modality-dropout")
    }
    assert {key for key, weight in weights.items() if weight == 0.5} == {
        key for key in weights if key.endswith("half")
    }
    assert set(weights.values()) == {0.5, 1}
    rates = {job.entry: dict(job.config)[LEARNING_RATE] for job in jobs}
    assert rates["skill-half"] == rates["skill"] == 0.03
    assert rates["joint"] == 0.1


@pytest.mark.usefixtures("small")
def test_tuning_decides_by_validation_and_followers_follow(tmp_path):
    stages = suite.stages("small", tmp_path)
    _, jobs = next(stages)
    best = {LEARNING_RATE: 0.03, "misaligned_weight": 5}
    finish(jobs, lambda job: 0.9 if best.items() <= dict(job.config).items() else 0.5)
    _, jobs = next(stages)
    assert {job.entry for job in jobs} == {"plain-swap", "plain-swap-warmup"}
    assert all(dict(job.config)["misaligned_weight"] == 5 for job in jobs)
    assert {dict(job.config)[LEARNING_RATE] for job in jobs} == set(FOUR_RATES)
    finish(jobs, lambda job: dict(job.config)[LEARNING_RATE])
    _, jobs = next(stages)
    by_entry = {job.entry: dict(job.config) for job in jobs}
    assert by_entry["midas"] == by_entry["midas-000"] == best
    assert by_entry["plain-swap"] == {**best, LEARNING_RATE: 0.1}
    seeds = Counter(job.entry for job in jobs)
    assert seeds["midas"] == 2
    assert seeds["midas-000"] == 1
    assert seeds["unimodal"] == 2  # one a modality
    assert all(job.phase == "test" for job in jobs)


@pytest.mark.usefixtures("small")
def test_ties_go_to_the_lower_cross_entropy(tmp_path):
    jobs = suite.tuning_jobs(tmp_path, "tiny", "joint", (1000,))
    losses = dict(zip(jobs, (0.4, None, 0.1, 0.2), strict=True))
    for job, nll in losses.items():
        write_json(job.file, record_of(job, validation={"accuracy": 0.5, "nll": nll}))
    chosen = suite.best_config(tmp_path, "tiny", "joint", (1000,))
    assert chosen == dict(jobs[2].config)


def test_without_tuning_the_defaults_run(tmp_path):
    config = suite.best_config(tmp_path, "digits-2", "plain-swap", ())
    assert config == {LEARNING_RATE: 0.01, "misaligned_weight": 1}


@pytest.mark.usefixtures("small")
def test_a_stopped_suite_goes_on_where_it_was(tmp_path, monkeypatch):
    """The same runs, in one go or after a stop; then the report from the files alone."""
    monkeypatch.setattr(actions, "report", lambda command, console: None)
    command = Run(suite="small", jobs=1, out=tmp_path)
    started = []
    train = suite.train_readings

    def counted(method, split, readings, regime, test):
        started.append(regime.seed)
        if len(started) == 30:
            raise KeyboardInterrupt
        return train(method, split, readings, regime, test=test)

    monkeypatch.setattr(suite, "train_readings", counted)
    monkeypatch.setattr(actions.joblib, "parallel_config", no_processes)
    with pytest.raises(KeyboardInterrupt):
        actions.run(command, Console(quiet=True))
    kept = {file: file.read_bytes() for file in tmp_path.rglob("*.json")}
    assert len(kept) == 29
    actions.run(command, Console(quiet=True))
    assert all(file.read_bytes() == content for file, content in kept.items())
    jobs = [job for _, stage in suite.stages("small", tmp_path) for job in stage]
    assert len(started) == len(jobs) + 1
    assert not list(tmp_path.rglob("*.tmp"))

    record = next(job for job in jobs if job.entry == "midas" and job.phase == "test").load()
    assert {"accuracy", "misaligned_accuracy", "without.fou"} <= set(record["test"])
    assert record["versions"]["torch"]
    assert record["steps"] == 2 * 19
    tuned = next(job for job in jobs if job.phase == "tune").load()
    assert tuned["test"] is None


def test_runs_in_processes_of_their_own(tmp_path):
    jobs = [
        suite.Job(tmp_path, "digits-3", "joint", ((LEARNING_RATE, 0.03),), seed, "tune")
        for seed in (0, 1)
    ]
    actions.run_all(jobs, 2, "tuning", Console(quiet=True))
    assert [job.load()["seed"] for job in jobs] == [0, 1]
    here = suite.Job(tmp_path / "here", *(getattr(jobs[0], name) for name in JOB_FIELDS))
    here.run()
    apart, together = jobs[0].load(), here.load()
    assert {**apart, "seconds": 0} == {**together, "seconds": 0}


def no_processes(*_, in_this_process=parallel_config, **__):
    """In place of `joblib.parallel_config`."""
    return in_this_process("sequential")


def keep_made_up(job, accuracy):
    """Write the file of a run that was never trained."""
    test = made_up_scores(job.task, accuracy=accuracy)
    if job.modality is not None:
        test = {name: test[name] for name in ("accuracy", "macro_f1", "nll")}
    write_json(job.file, record_of(job, test=test))


@pytest.fixture
def finished(tmp_path):
    """A quick suite whose runs were never trained: scores are made up."""
    for _, jobs in suite.stages("quick", tmp_path):
        for number, job in enumerate(jobs):
            keep_made_up(job, accuracy=0.5 + 0.001 * number)
    return tmp_path


def test_the_report_names_every_method_and_task(finished):
    tasks = suite.SUITES["quick"].tasks
    written = list(write_report("quick", tasks, finished))
    page = (finished / "quick" / "README.md").read_text()
    for entry in ENTRIES.values():
        assert entry.alone or f"| {entry.title} |" in page
    for task in tasks:
        assert f"## {task}\n" in page
    assert "image alone" in page
    assert "nan" not in page
    for file in written:
        assert file.stat().st_size > 5000
        assert file.suffix != ".png" or f"({file.name})" in page
    lines = page.splitlines()
    for line, following in pairwise(lines):  # every table is a table
        if line.startswith("|") and following.startswith("|"):
            assert line.count("|") == following.count("|")


def test_the_report_does_not_mix_configurations(finished):
    file = next(finished.rglob("digits-2/test/mcr,*seed=1,*.json"))
    record = json.loads(file.read_text())
    record["config"]["regularizer"] = 0.5
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="runs of mcr with different configurations"):
        list(write_report("quick", ("digits-2",), finished))


def test_the_report_says_what_is_missing(finished):
    for file in finished.rglob("mcr,*.json"):
        file.unlink()
    with pytest.raises(ValueError, match="no finished run of mcr"):
        list(write_report("quick", ("digits-2",), finished))


def test_the_report_of_the_skill_suite_and_the_better_of_two_runs(tmp_path, monkeypatch):
    small = replace(suite.SUITES["skill"], tasks=("digits-2", "digits-noise"), tuning_seeds=())
    monkeypatch.setitem(suite.SUITES, "skill", small)
    accuracy = {"joint": 0.6, "skill": 0.7}
    for _, jobs in suite.stages("skill", tmp_path):
        for job in jobs:
            test = made_up_scores(job.task, accuracy=accuracy.get(job.entry, 0.5))
            # On validation skill is ahead on every second seed, and level on the others.
            ahead = job.entry == "skill" and job.seed % 2 == 0
            validation = {"accuracy": 0.6 + 0.1 * ahead, "nll": 1.0}
            write_json(job.file, record_of(job, validation=validation, test=test))
    files = [file.name for file in write_report("skill", small.tasks, tmp_path)]
    assert files == ["methods.png", "tradeoff.png", "README.md"]
    page = (tmp_path / "skill" / "README.md").read_text()
    for entry in SKILL_ENTRIES.values():
        assert f"| {entry.title} |" in page
    runs = load_runs(tmp_path / "skill", small.tasks)["digits-2"]
    always = runs.difference("skill", "joint", "accuracy")
    better = runs.difference_of_better("skill", "joint", "accuracy")
    assert (always.mean, always.won) == (pytest.approx(10), 10)
    assert (better.mean, better.won) == (pytest.approx(5), 5)
    assert "| skill or joint − joint | +5.0 ± " in page


def test_a_frozen_suite_makes_the_same_report_and_needs_no_training(finished, tmp_path_factory):
    tasks = suite.SUITES["quick"].tasks
    before = [file.read_bytes() for file in write_report("quick", tasks, finished)]
    again = tmp_path_factory.mktemp("again")
    file = suite.freeze("quick", finished, again)
    assert file == again / "quick" / "runs.jsonl"
    after = [file.read_bytes() for file in write_report("quick", tasks, again)]
    assert after == before
    for root in (finished, again):
        [(_, jobs)] = suite.stages("quick", root)
        assert all(job.finished for job in jobs)
    assert suite.freeze("quick", again, tmp_path_factory.mktemp("once more")).read_bytes() == (
        file.read_bytes()
    )


def test_freezing_publishes_the_report_with_the_runs(finished, tmp_path_factory):
    published = tmp_path_factory.mktemp("published")
    (published / "quick").mkdir()
    (published / "quick" / "reading.md").write_text("What we make of it.")
    actions.perform(Freeze("quick", finished, published))
    names = {file.name for file in (published / "quick").iterdir()}
    assert {"README.md", "methods.png", "reading.md", "runs.jsonl"} <= names
    assert "What we make of it." in (published / "quick" / "README.md").read_text()
    assert not (finished / "quick" / "README.md").exists()


def test_published_runs_are_finished_in_the_default_folder_and_nowhere_else(
    finished, tmp_path_factory, monkeypatch
):
    checkout = tmp_path_factory.mktemp("checkout")
    monkeypatch.setattr(suite, "RESULTS", checkout / "published")
    monkeypatch.setattr(suite, "KEPT", checkout / "runs" / "compare")
    suite.freeze("quick", finished, suite.RESULTS)
    monkeypatch.chdir(checkout)
    for root in (suite.KEPT, Path("runs/compare")):
        [(_, jobs)] = suite.stages("quick", root)
        assert all(job.finished for job in jobs)
        assert all(suite.KEPT in job.file.absolute().parents for job in jobs)
        assert len(suite.load_records(root / "quick")) == len(jobs)
    [(_, jobs)] = suite.stages("quick", checkout / "elsewhere")
    assert not any(job.finished for job in jobs)
    before = (suite.RESULTS / "quick" / "runs.jsonl").read_bytes()
    actions.perform(Report("quick", suite.KEPT))
    assert [file.name for file in (suite.RESULTS / "quick").iterdir()] == ["runs.jsonl"]
    assert (suite.RESULTS / "quick" / "runs.jsonl").read_bytes() == before
    assert (suite.KEPT / "quick" / "README.md").exists()


def test_a_suite_that_is_not_finished_is_not_frozen(finished, tmp_path_factory):
    next(finished.rglob("mcr,*.json")).unlink()
    with pytest.raises(DataError, match=r"1 of .* runs are missing; run first"):
        suite.freeze("quick", finished, tmp_path_factory.mktemp("frozen"))


def test_runs_that_an_earlier_tuning_chose_are_not_frozen(finished, tmp_path_factory):
    job = suite.Job(finished / "quick", "digits-2", "joint", ((LEARNING_RATE, 7),), 0, "test")
    write_json(job.file, record_of(job, test=made_up_scores("digits-2")))
    file = suite.freeze("quick", finished, tmp_path_factory.mktemp("frozen"))
    assert job.identity not in kept.read_runs(file)


def test_a_run_is_known_by_its_whole_configuration(tmp_path):
    """Not by three digits of it."""
    one, other = (
        suite.Job(tmp_path / "full", "digits-2", "joint", ((LEARNING_RATE, rate),), 0, "tune")
        for rate in (0.01, 0.010001)
    )
    assert one.file != other.file
    write_json(one.file, record_of(one))
    assert one.finished
    assert not other.finished


def test_the_order_of_a_configuration_does_not_make_another_run(tmp_path):
    pairs = ((LEARNING_RATE, 0.01), ("misaligned_weight", 1))
    one, other = (
        suite.Job(tmp_path, "digits-2", "midas", config, 0, "tune")
        for config in (pairs, ((pairs[1][0], 1.0), pairs[0]))
    )
    assert one.identity == other.identity
    assert one.identity.digest == other.identity.digest


def broken_texts(text):
    """What may be left of a file of one line, or written over it."""
    record = json.loads(text)
    yield from ("", text[: len(text) // 2], "[]", "{}", "null", "\x00")
    yield json.dumps({**record, "config": None})
    yield json.dumps({**record, "validation": {"accuracy": "high", "nll": 1.0}})
    yield json.dumps({**record, "seed": "0"})
    for name in ("task", "config", "versions", "validation", "test", "steps"):
        yield json.dumps({key: value for key, value in record.items() if key != name})


def test_a_damaged_file_of_a_run_says_so(finished):
    file = next(finished.rglob("mcr,*.json"))
    for text in broken_texts(file.read_text()):
        file.write_text(text)
        with pytest.raises(DataError) as caught:
            list(write_report("quick", ("digits-2",), finished))
        assert str(caught.value).startswith(f"{file} is damaged, delete it"), text


def test_a_damaged_file_of_all_runs_says_so(finished, tmp_path_factory):
    file = suite.freeze("quick", finished, tmp_path_factory.mktemp("frozen"))
    header, first, second, *others = file.read_text().splitlines()
    damages = [[header, text, *others] for text in broken_texts(first)]
    damages += [[], [first, second], ["{}", first], ['{"versions": 3}', first]]
    damages += [[header, first, first]]  # the same run twice
    damages += [['{"versions":[]}', first]]
    for number, lines in enumerate(damages):
        file.write_text("\n".join([*lines, "" if lines else " " * number]))
        with pytest.raises(DataError) as caught:
            kept.read_runs(file)
        assert str(caught.value).startswith(f"{file} is damaged, delete it"), lines[:2]
    file.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match="is damaged, delete it"):
        kept.read_runs(file)


def test_a_command_with_damaged_runs_ends_in_one_line(finished):
    file = next(finished.rglob("mcr,*.json"))
    file.write_text("{")
    with pytest.raises(SystemExit) as caught:
        actions.perform(Report("quick", finished))
    assert str(caught.value).startswith(f"{file} is damaged, delete it")
    assert "\n" not in str(caught.value)


def test_the_competition_suite_tunes_on_a_split_of_its_own_and_tests_on_fresh_ones(tmp_path):
    stages = suite.stages("competition", tmp_path)
    for _ in range(2):
        _, jobs = next(stages)
        assert {job.seed for job in jobs} <= {1000}
        assert {job.task for job in jobs} <= {"kanji"}
        finish(jobs, lambda job: dict(job.config)[LEARNING_RATE])
    _, jobs = next(stages)
    seeds = {
        entry: {job.seed for job in jobs if job.entry == entry} for entry in ("joint", "tcmax")
    }
    assert seeds == {"joint": set(range(3000, 3005)), "tcmax": set(range(3000, 3003))}
    rates = {job.entry: dict(job.config)[LEARNING_RATE] for job in jobs}
    for key, entry in COMPETITION_ENTRIES.items():
        entry.build({LEARNING_RATE: 0.01})
        if entry.follows is not None:
            assert rates[key] == rates[entry.follows]


def test_one_training_writes_the_runs_of_all_that_read_it(tmp_path, monkeypatch):
    trained = []
    train = suite.train_readings

    def counted(method, split, readings, regime, test):
        trained.append(regime.seed)
        return train(method, split, readings, regime, test=test)

    monkeypatch.setattr(suite, "train_readings", counted)
    monkeypatch.setitem(TASKS, "tiny", Task("digits", ("fou", "mor"), epochs=2, weight=1))
    rate = ((LEARNING_RATE, 0.03),)
    folder = tmp_path / "competition"
    whole, fitted = (
        suite.Job(folder, "tiny", entry, rate, 3000, "test")
        for entry in ("late-fusion", "late-fusion-fitted")
    )
    alone = [
        suite.Job(folder, "tiny", "unimodal", rate, 3000, "test", modality)
        for modality in ("fou", "mor")
    ]
    fitted.run()  # in any order
    assert trained == [3000]
    for job in (whole, fitted, *alone):
        assert job.finished
        job.run() if job is not whole else None
    assert trained == [3000]
    scores = {job.file.name: job.load()["test"]["accuracy"] for job in (whole, fitted, *alone)}
    assert len(set(scores.values())) == 4
    fitted.file.unlink()
    fitted.run()
    assert trained == [3000, 3000]
    assert fitted.load()["test"]["accuracy"] == scores[fitted.file.name]


def test_tuning_runs_are_those_of_the_leader_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "tiny", Task("digits", ("fou", "mor"), epochs=1, weight=1))
    rate = ((LEARNING_RATE, 0.03),)
    job = suite.Job(tmp_path / "competition", "tiny", "joint", rate, 1000, "tune")
    job.run()
    assert [file.name for file in tmp_path.rglob("*.json")] == [job.file.name]


def test_a_tuned_decay_goes_with_the_rate_that_was_tuned_before(tmp_path):
    stages = suite.stages("decay", tmp_path)
    for chosen in (LEARNING_RATE, DECAY):
        _, jobs = next(stages)
        assert {job.task for job in jobs} == {"kanji"}
        assert {job.folder.name for job in jobs} == {
            "heads" if chosen == LEARNING_RATE else "decay"
        }
        finish(jobs, lambda job, chosen=chosen: dict(job.config)[chosen])
    _, jobs = next(stages)
    for job in jobs:
        decays = "decay" in job.entry or job.entry == "unimodal"
        assert dict(job.config) == {LEARNING_RATE: 0.2} | ({DECAY: 0.01} if decays else {})


def test_a_job_trains_with_its_decay(tmp_path, monkeypatch):
    asked = []
    train = suite.train_readings

    def noted(method, split, readings, regime, test):
        asked.append((regime.learning_rate, regime.weight_decay))
        return train(method, split, readings, regime, test=test)

    monkeypatch.setattr(suite, "train_readings", noted)
    monkeypatch.setitem(TASKS, "tiny", Task("digits", ("fou", "mor"), epochs=1, weight=1))
    for entry, config in (
        ("joint", {LEARNING_RATE: 0.03}),
        ("joint-decay", {LEARNING_RATE: 0.03, DECAY: 0.01}),
    ):
        suite.Job(tmp_path / "decay", "tiny", entry, tuple(config.items()), 1, "tune").run()
    assert asked == [(0.03, 1e-4), (0.03, 0.01)]


@pytest.fixture
def competition(tmp_path):
    """A competition suite whose scores are made up; joint training is below the image alone."""
    accuracy = {"joint": 0.5, "late-fusion": 0.6, "skill-fitted": 0.8, "midas": 0.7}
    for _, jobs in suite.stages("competition", tmp_path):
        for job in jobs:
            found = accuracy.get(job.entry, 0.65) + 0.001 * (job.seed % 3)
            still = job.task == "kanji-words"
            keep_made_up(job, accuracy=0.6 if still else found)
    return tmp_path


def test_the_report_of_the_competition_suite_says_where_modalities_compete(competition):
    tasks = suite.SUITES["competition"].tasks
    files = [file.name for file in write_report("competition", tasks, competition)]
    assert files == ["methods.png", "tradeoff.png", "README.md"]
    page = (competition / "competition" / "README.md").read_text()
    assert "Not admitted: kanji-words." in page
    assert "| skill, fitted weights − joint | +30.0 ± 0.0 ▲★ (5/5) |" in page
    untuned = page.split("## Untuned rows")[1].split("\n## ")[0]
    assert "mean of the seeds 3000, 3001, 3002, %" in untuned
    assert "| joint | 50.1 | 50.1 | 60.0 |" in untuned
    assert "The open question is met on these tasks" in page
    for entry in COMPETITION_ENTRIES.values():
        assert entry.alone or f"| {entry.title} |" in page
    assert "nan" not in page


def test_the_open_question_is_not_met_where_a_rival_ties_or_joint_training_wins(competition):
    for file in competition.rglob("kanji*/test/skill-fitted,*.json"):
        record = json.loads(file.read_text())
        record["test"]["accuracy"] = 0.4 if record["task"] == "kanji-words" else 0.65
        file.write_text(json.dumps(record))
    list(write_report("competition", suite.SUITES["competition"].tasks, competition))
    page = (competition / "competition" / "README.md").read_text()
    assert "The open question is not met: not better on kanji against plain swap" in page
    assert "harm on kanji-words." in page


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "The open question is met on these tasks"),
        ({"late-fusion-fitted": 0.8}, "not better on kanji against late fusion, fitted weights"),
        ({"joint": 0.9}, "harm on kanji, kanji3, "),
    ],
)
def test_the_page_of_the_heads_suite_asks_the_open_question_of_its_candidate(
    tmp_path, changed, words
):
    accuracy = {"skill-heads-fitted-heads": 0.8, "joint": 0.5} | changed
    for _, jobs in suite.stages("heads", tmp_path):
        for job in jobs:
            keep_made_up(job, accuracy.get(job.entry, 0.6) + 0.001 * (job.seed % 3))
    tasks = suite.SUITES["heads"].tasks
    assert [file.name for file in write_report("heads", tasks, tmp_path)] == ["README.md"]
    page = (tmp_path / "heads" / "README.md").read_text(encoding="utf-8")
    assert words in page
    assert "| best modality alone | 60.1 |" in page
    assert f"over all {len(family.HEADS_PAIRS) * len(tasks)} comparisons" in page
    for entry in HEADS_ENTRIES.values():
        assert entry.alone or f"| {entry.title} |" in page
    assert "nan" not in page


def test_the_report_of_a_suite_that_is_not_finished_says_what_to_run(finished):
    next(finished.rglob("mcr,*.json")).unlink()
    with pytest.raises(SystemExit) as caught:
        actions.perform(Report("quick", finished))
    assert re.fullmatch(
        r"test: 1 of \d+ runs are missing; run first: python -m benchmarks run --suite quick "
        rf"--out {re.escape(str(finished))}",
        str(caught.value),
    )


@pytest.mark.parametrize("name", ["full", "skill"])
def test_a_suite_whose_tuning_is_missing_says_what_to_run(tmp_path, name):
    """The skill suite takes some tuning of the full one, which may be what is missing."""
    for command in (Report(name, tmp_path), Freeze(name, tmp_path, tmp_path)):
        with pytest.raises(SystemExit, match=r"missing; run first: python -m benchmarks run"):
            actions.perform(command)
    with pytest.raises(DataError, match=r"of midas is missing \(tune, seed 1000\); run first"):
        suite.best_config(tmp_path / "full", "digits-2", "midas", (1000,))
    with pytest.raises(DataError, match=r"run first: python -m benchmarks run --suite full --out"):
        suite.best_config(tmp_path / "skill", "digits-2", "joint", (1000,))


def test_models_without_tuned_configurations_are_not_diagnosed(tmp_path):
    with pytest.raises(SystemExit, match=r"a run of joint is missing .* run --suite full"):
        actions.perform(Diagnose("digits-2", tmp_path))


def test_a_diagnosis_says_what_to_do(tmp_path, monkeypatch, capsys):
    def diagnosed(task, root):
        case = planted.make_case("dominated", rows=200, batch=200)
        model = (case.model.encode, case.model.fuse)
        reports = [
            diagnose(
                model, case.loader, ("audio", "video"), unimodal=case.unimodal, name=name, draws=1
            )
            for name in ("joint", "MIDAS")
        ]
        return reports[0].compare(*reports[1:])

    monkeypatch.setattr(actions, "diagnose_task", diagnosed)
    actions.perform(Diagnose("digits-2", tmp_path))
    printed = capsys.readouterr().out
    page = (tmp_path / "diagnosis" / "digits-2.md").read_text()
    for text in (printed, page):
        assert text.count("- video is ignored: ") == 2
        assert text.count("What to do:\n\n1. ") == 2


def test_hidden_files_beside_the_runs_are_no_runs(finished):
    before = len(suite.load_records(finished / "quick"))
    file = next(finished.rglob("mcr,*.json"))
    file.with_name(f"._{file.name}").write_bytes(b"attributes")
    assert len(suite.load_records(finished / "quick")) == before
