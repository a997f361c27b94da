"""Suites: entries, tuning, and that a stopped suite goes on where it was."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from joblib import parallel_config
from rich.console import Console

from benchmarks import __main__ as main
from benchmarks.compare import suite
from benchmarks.compare.report import write_report
from benchmarks.compare.report.runs import load_runs
from benchmarks.compare.tasks import REAL, TASKS, Task
from benchmarks.methods.entries import ENTRIES, FOUR_RATES, LEARNING_RATE, SKILL_ENTRIES

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


def finish(jobs, accuracies):
    """Write the files of jobs, with the validation accuracy that ``accuracies`` tells."""
    for job in jobs:
        job.file.parent.mkdir(parents=True, exist_ok=True)
        score = {"accuracy": accuracies(job), "nll": None}
        job.file.write_text(json.dumps({"validation": score}))


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
    assert {job.task for job in jobs} == set(TASKS)
    used = range(2000, 2010)
    assert {job.seed for job in jobs} == set(used)
    assert len(jobs) == len(SKILL_ENTRIES) * len(TASKS) * 10
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
        job.file.parent.mkdir(parents=True, exist_ok=True)
        job.file.write_text(json.dumps({"validation": {"accuracy": 0.5, "nll": nll}}))
    chosen = suite.best_config(tmp_path, "tiny", "joint", (1000,))
    assert chosen == dict(jobs[2].config)


def test_without_tuning_the_defaults_run(tmp_path):
    config = suite.best_config(tmp_path, "digits-2", "plain-swap", ())
    assert config == {LEARNING_RATE: 0.01, "misaligned_weight": 1}


@pytest.mark.usefixtures("small")
def test_a_stopped_suite_goes_on_where_it_was(tmp_path, monkeypatch):
    """The same runs, in one go or after a stop; then the report from the files alone."""
    monkeypatch.setattr(main, "report", lambda command, console: None)
    command = main.Run(suite="small", jobs=1, out=tmp_path)
    started = []
    train = suite.train

    def counted(*arguments, **options):
        started.append(options["seed"])
        if len(started) == 30:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr(suite, "train", counted)
    monkeypatch.setattr(main.joblib, "parallel_config", no_processes)
    with pytest.raises(KeyboardInterrupt):
        main.run(command, Console(quiet=True))
    kept = {file: file.read_bytes() for file in tmp_path.rglob("*.json")}
    assert len(kept) == 29
    main.run(command, Console(quiet=True))
    assert all(file.read_bytes() == content for file, content in kept.items())
    jobs = [job for _, stage in suite.stages("small", tmp_path) for job in stage]
    assert len(started) == len(jobs) + 1
    assert not list(tmp_path.rglob("*.partial"))

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
    main.run_all(jobs, 2, "tuning", Console(quiet=True))
    assert [job.load()["seed"] for job in jobs] == [0, 1]
    here = suite.Job(tmp_path / "here", *(getattr(jobs[0], name) for name in JOB_FIELDS))
    here.run()
    apart, together = jobs[0].load(), here.load()
    assert {**apart, "seconds": 0} == {**together, "seconds": 0}


def no_processes(*_, in_this_process=parallel_config, **__):
    """In place of `joblib.parallel_config`."""
    return in_this_process("sequential")


@pytest.fixture
def finished(tmp_path):
    """A quick suite whose runs were never trained: scores are made up."""
    for _, jobs in suite.stages("quick", tmp_path):
        for number, job in enumerate(jobs):
            modalities = TASKS[job.task].modalities
            test = {"accuracy": 0.5 + 0.001 * number, "macro_f1": 0.5, "nll": 1.0}
            if job.modality is None:
                test["misaligned_accuracy"] = 0.3
                for kind in ("without", "confidence", "shapley", "smv"):
                    test |= {f"{kind}.{m}": 0.25 for m in modalities}
            record = {"entry": job.entry, "modality": job.modality, "seed": job.seed}
            record |= {"config": dict(job.config), "versions": suite.versions(), "test": test}
            record |= {"steps": 100, "seconds": 2.0}
            job.file.parent.mkdir(parents=True, exist_ok=True)
            job.file.write_text(json.dumps(record))
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
    file = next(finished.rglob("digits-2/test/mcr,*seed=1.json"))
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
            test = {"accuracy": accuracy.get(job.entry, 0.5), "macro_f1": 0.5, "nll": 1.0}
            test["misaligned_accuracy"] = 0.3
            for kind in ("without", "confidence", "shapley", "smv"):
                test |= {f"{kind}.{m}": 0.25 for m in TASKS[job.task].modalities}
            # On validation skill is ahead on every second seed, and level on the others.
            ahead = job.entry == "skill" and job.seed % 2 == 0
            record = {"entry": job.entry, "modality": None, "seed": job.seed, "test": test}
            record |= {"config": dict(job.config), "versions": suite.versions()}
            record |= {"validation": {"accuracy": 0.6 + 0.1 * ahead}, "steps": 1, "seconds": 1.0}
            job.file.parent.mkdir(parents=True, exist_ok=True)
            job.file.write_text(json.dumps(record))
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
