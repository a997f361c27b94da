"""The committed results: complete, tuned as the protocol says, and what the pages print."""

from functools import cache
from statistics import mean

import pytest

from benchmarks.common.records import RESULTS
from benchmarks.compare import kept, suite
from benchmarks.compare.report import family, tables
from benchmarks.compare.report.runs import load_runs
from benchmarks.compare.report.statistics import paired_difference
from benchmarks.compare.tasks import TASKS
from benchmarks.methods.entries import ENTRIES, SKILL_ENTRIES
from benchmarks.methods.suite_entries import (
    COMPETITION_ENTRIES,
    COMPETITION_LAST,
    COMPETITION_LATER,
    DECAYED,
    OLDER,
    RIVALS,
    RULES,
)

COMPARISON = RESULTS.parents[1] / "docs" / "comparison.md"
PUBLISHED = (
    "full", "skill", "competition", "heads", "rivals", "older-rivals", "augmented", "longer",
    "apart", "rules", "decay", "cheaper", "labels",
)  # fmt: skip


def words_in(page):
    return " ".join(page.read_text(encoding="utf-8").split())


def words_of(name):
    return words_in(RESULTS / name / "reading.md")


def said(difference):
    return f"{difference.mean:.1f} ± {difference.margin:.1f}"


@cache
def load(name):
    return load_runs(RESULTS / name, suite.SUITES[name].tasks)


@pytest.fixture
def runs():
    return load("full")


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_methods_on_all_tasks_with_all_seeds(name):
    for task in load(name).values():
        for key, row in (task.rows | task.beside).items():
            entry = key if row.modality is None else "unimodal"
            expected = list(suite.SUITES[name].seeds_of(entry))
            assert sorted(row.records) == expected, (task.name, key)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_run_of_the_plan_is_there_and_no_other(name):
    """The test runs have the configurations that the tuning runs choose."""
    planned = [job for _, jobs in suite.stages(name, RESULTS) for job in jobs]
    own = {job.identity for job in planned if job.folder.name == name}
    assert own == kept.read_runs(RESULTS / name / "runs.jsonl").keys()
    assert all(job.finished for job in planned)  # with the tuning that the full suite did


def test_controls_and_ablations_have_the_lambda_of_midas(runs):
    followers = [key for key, entry in ENTRIES.items() if entry.follows == "midas"]
    assert {"plain-swap", "plain-swap-warmup", "midas-000"} <= set(followers)
    for task in runs.values():
        chosen = task.rows["midas"].records[0]["config"]["misaligned_weight"]
        for key in followers:
            config = task.rows[key].records[0]["config"]
            assert config["misaligned_weight"] == chosen, (task.name, key)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_is_what_the_runs_say(name):
    folder = RESULTS / name
    page = (folder / "README.md").read_text(encoding="utf-8")
    reading = (folder / "reading.md").read_text(encoding="utf-8")
    runs = load(name)
    write = family.page if name in family.FAMILIES else tables.page
    written = write(name, runs, reading)
    assert page == written


def test_the_skill_suite_tells_the_splits_and_weights_of_its_protocol():
    for task in load("skill").values():
        for key, row in task.rows.items():
            assert {record["epochs"] for record in row.records.values()} == {
                TASKS[task.name].epochs
            }
            followed = SKILL_ENTRIES[key].follows
            if followed:
                assert row.records[2000]["config"] == task.rows[followed].records[2000]["config"]


def test_the_tables_of_the_comparison_are_rows_of_that_page():
    folder = RESULTS / "full"
    page = set((folder / "README.md").read_text(encoding="utf-8").splitlines())
    section = COMPARISON.read_text(encoding="utf-8").split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert [row for row in rows if row not in page and "---" not in row] == []


def test_the_tables_of_the_page_about_labels_are_those_of_its_results():
    page = (RESULTS / "labels" / "README.md").read_text(encoding="utf-8").splitlines()
    text = (COMPARISON.parent / "labels.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert [row for row in rows if row not in page and "---" not in row] == []


def test_the_table_of_suites_names_all_with_their_tasks_and_seeds():
    words = {1: "kanji", 2: "two", 3: "three", 4: "four", 5: "five", 8: "eight", 9: "planted"}
    words |= {10: "ten", 11: "eleven"}
    section = COMPARISON.read_text(encoding="utf-8").split("## Which suite asks what")[1]
    rows = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("| [")]
    assert [row.split("]")[0].removeprefix("| [") for row in rows] == list(PUBLISHED)
    for row, name in zip(rows, PUBLISHED, strict=True):
        plan, (_, _, _, tasks, seeds, _) = suite.SUITES[name], row.split("|")
        assert int(seeds.split(";")[0]) == (plan.headline_seeds or plan.seeds)
        count = "five" if name == "heads" else words[len(plan.tasks)]
        assert count in tasks, name


@pytest.mark.parametrize("name", PUBLISHED)
def test_freezing_the_committed_runs_again_changes_no_byte(name, tmp_path):
    file = suite.freeze(name, RESULTS, tmp_path)
    assert file.read_bytes() == (RESULTS / name / "runs.jsonl").read_bytes()


def test_one_training_of_the_competition_has_one_learning_rate_however_it_is_read():
    for task in load("competition").values():
        for key, row in task.rows.items():
            entry = COMPETITION_ENTRIES["unimodal" if row.modality else key]
            if entry.follows is not None:
                followed = task.rows[entry.follows]
                for seed, record in row.records.items():
                    assert record["config"] == followed.records[seed]["config"]
                    assert record["seconds"] == followed.records[seed]["seconds"]


def untuned(task, key):
    """Mean accuracy of a row of the competition on the seeds of the untuned rows."""
    row = (task.rows | task.beside)[key]
    return mean(row.records[seed]["test"]["accuracy"] for seed in range(3000, 3003))


def test_what_the_page_says_of_the_later_untuned_rows_holds():
    above_joint = {}
    for name, task in load("competition").items():
        for key in set(COMPETITION_LATER) & task.beside.keys():
            value = untuned(task, key)
            assert value < untuned(task, "skill")
            assert value < untuned(task, "unimodal-image")
            assert (value > untuned(task, "midas")) is ((name, key) in ABOVE_MIDAS)
            if value > untuned(task, "joint"):
                above_joint.setdefault(key, set()).add(name)
    assert above_joint == ABOVE_JOINT


def test_what_the_page_says_of_the_last_untuned_rows_holds():
    above = {}
    for name, task in load("competition").items():
        references = ("joint", "midas", "skill", "unimodal-image", "late-fusion-fitted")
        for reference in references:
            for key in COMPETITION_LAST:
                if untuned(task, key) > untuned(task, reference):
                    above.setdefault(reference, {}).setdefault(key, set()).add(name)
    tasks = frozenset(load("competition"))
    words = frozenset({"kanji-words"})
    ablated = ("zero-ablated", "arl", "arl-released")
    assert above["joint"] == {
        "dgl": tasks,
        "mmpareto": tasks,
        "pretrained": tasks - words,
        **dict.fromkeys(ablated, tasks - {"kanji"}),
    }
    assert above["midas"] == {
        "dgl": {"kanji-words", "kanji-still"},
        "mmpareto": {"kanji-words", "kanji-still"},
        "pretrained": {"kanji-still"},
        **dict.fromkeys(ablated, tasks - {"kanji", "kanji3"}),
    }
    assert above["skill"] == dict.fromkeys(ablated, words)
    assert above["unimodal-image"] == {"dgl": {"kanji-still"}, **dict.fromkeys(ablated, words)}
    assert "late-fusion-fitted" not in above
    for task in load("competition").values():
        plain, printed, released = (untuned(task, key) for key in ablated)
        assert max(printed, released) - plain < 0.0135


ABOVE_MIDAS = {
    ("kanji-words", "aug"),
    ("kanji3-words", "aug"),
    ("kanji-still", "aug"),
    ("kanji-still", "masam"),
    ("kanji-still", "pdmp"),
}
ABOVE_JOINT = {
    "pdmp": {"kanji", "kanji3", "kanji-words", "kanji3-words", "kanji-still"},
    "aug": {"kanji3", "kanji-words", "kanji3-words", "kanji-still"},
    "inforeg": {"kanji3", "kanji3-words"},
    "masam": {"kanji3", "kanji3-words", "kanji-still"},
    "cggm": {"kanji3", "kanji3-words"},
}


def test_the_modality_that_pdmp_puts_first_is_the_best_alone_on_validation_rows():
    first = COMPETITION_ENTRIES["pdmp"].build({}).best
    for task in load("competition").values():
        rows = [task.rows[f"unimodal-{modality}"].records for modality in task.modalities]
        for seed in rows[0]:
            reached = [row[seed]["validation"]["accuracy"] for row in rows]
            assert reached.index(max(reached)) == first


def test_what_the_page_about_heads_says_holds():
    runs = load("heads")
    kanji, older = suite.SUITES["heads"].tasks[:5], suite.SUITES["heads"].tasks[5:]
    ours, fitted = "skill-heads-fitted-heads", "late-fusion-fitted"

    def verdicts(one, other, tasks=(*kanji, *older)):
        return [runs[task].difference(one, other, "accuracy").verdict for task in tasks]

    for theirs in ("joint", "plain-swap", "midas"):
        assert verdicts(ours, theirs, kanji) == [1] * 5
    assert -1 not in verdicts(ours, "joint")
    assert verdicts(ours, fitted) == [0] * 10
    assert verdicts(ours, "plain-swap-heads-fitted-heads") == [0] * 10
    assert verdicts("skill-heads", "plain-swap-heads", kanji) == [1] * 5
    assert verdicts("skill-heads", "skill") == [0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert verdicts("midas", "joint", kanji) == [1, 1, 1, 1, 0]
    assert verdicts("midas", "plain-swap", kanji) == [1, 1, 0, 1, 0]
    rows = [key for key, row in runs["watch"].rows.items() if row.modality is None]
    for key in rows:
        assert key == "joint" or verdicts(key, "joint", older) == [0] * 5
    means = [runs[task].difference(ours, fitted, "accuracy").mean for task in kanji]
    words = words_of("heads").replace("−", "-")
    first, rest = [f"{value:+.1f}" for value in means[:4]], f"{means[4]:+.1f}"
    assert f"{', '.join(first)} and {rest} points on kanji" in words
    halves = [
        paired_difference(*(runs[task].values(key, "accuracy")[5:] for key in (ours, fitted)))
        for task in kanji
    ]
    assert {one.verdict for one in halves} == {0}
    first, rest = [f"{one.mean:+.1f}" for one in halves[:4]], f"{halves[4].mean:+.1f}"
    assert f"say the same: {', '.join(first)} and {rest}, all ties" in words
    gains = [runs[task].difference("skill-heads", "skill", "accuracy") for task in kanji]
    page = words_in(COMPARISON.parent / "skill.md")
    *first, last = [f"{gain.mean:.1f}" for gain in gains]
    assert f"{', '.join(first)} and {last} points better than skill" in page


def test_what_the_page_about_fewer_swaps_says_holds():
    runs = load("cheaper")
    words = words_of("cheaper")
    fewer = ("midas-one", "midas-every-2", "midas-every-4")
    kanji = [runs["kanji"].difference(key, "joint", "accuracy") for key in ("midas", *fewer)]
    first, *others = [f"{one.mean:.1f}" for one in kanji]
    assert f"MIDAS has {first} points more than joint training" in words
    text = "it has {}, with misaligned samples in every second batch {}, in every fourth {}, all"
    assert text.format(*others) in words
    lost = [task.difference(key, "midas", "accuracy") for task in runs.values() for key in fewer]
    assert [one.verdict for one in lost] == [0, 0, 0, 0, -1, -1, 0, 0, 0]
    second, fourth = (one._replace(mean=-one.mean) for one in lost[4:6])
    assert f"by {said(second)} and {said(fourth)} points" in words
    words_task = [runs["kanji-words"].difference(k, "joint", "accuracy") for k in ("midas", *fewer)]
    gains = [f"{one.mean:.1f}" for one in words_task]
    assert (
        "gains {}, one misaligned sample a row leaves {}, every second batch {} and".format(
            *gains[:3]
        )
        in words
    )
    assert f"every fourth {gains[3]};" in words
    assert [one.verdict for one in kanji] == [1] * 4
    below = [-one.mean for one in lost if one.mean < 0]
    assert len(below) == 8
    assert f"by {min(below):.1f} to {max(below):.1f} points" in words


def test_what_the_page_about_augmented_tasks_says_holds():
    runs, words = load("augmented"), words_of("augmented")
    ours, fitted = "skill-heads-fitted-heads", "late-fusion-fitted"

    def verdicts(one, other):
        return [task.difference(one, other, "accuracy").verdict for task in runs.values()]

    def differences(one, other, *tasks):
        return [runs[task].difference(one, other, "accuracy") for task in tasks]

    admitted = ("emoji-3", "openmoji-crops")
    assert tuple(runs)[:2] == admitted
    for task in runs.values():
        alone = [key for key, row in task.rows.items() if row.modality is not None]
        assert all(task.difference("joint", key, "accuracy").verdict >= 0 for key in alone)
    assert verdicts("joint", "late-fusion") == [-1, -1, 0, 0]
    below = differences("late-fusion", "joint", *admitted)
    assert f"on emoji-3 joint training is below late fusion by {said(below[0])} points, on" in words
    assert f"on openmoji-crops by {said(below[1])}." in words
    assert verdicts("midas", "joint") == [1, 1, 0, 0]
    gains = " and ".join(map(said, differences("midas", "joint", *admitted)))
    assert f"MIDAS is better than joint training, by {gains} points" in words
    assert verdicts("midas", "plain-swap") == [1, 0, 0, 0]
    (gain,) = differences("midas", "plain-swap", "emoji-3")
    assert f"than the plain swap, by {said(gain)}." in words
    means = [mean(runs["emoji-3"].values(key, "accuracy")) for key in ("midas", fitted)]
    assert "as it is it has {:.1f} %, fitted late fusion {:.1f}.".format(*means) in words
    gains = " and ".join(map(said, differences(ours, "joint", *admitted)))
    assert verdicts(ours, "joint") == [1, 1, 0, 0]
    assert f"better than joint training on both, by {gains}, and so" in words
    for row in ("skill", "late-fusion", "plain-swap"):
        assert runs["emoji-3"].difference(row, "joint", "accuracy").verdict == 1
    for row in (fitted, "plain-swap", "midas"):
        assert verdicts(ours, row) == [0] * 4
    ties = [f"{one.mean:+.1f}".replace("-", "−") for one in differences(ours, fitted, *runs)]
    assert "({}, {}, {} and {})".format(*ties) in words
    assert verdicts("skill", "plain-swap") == [0] * 4
    assert verdicts("skill", "midas") == [0, 0, 0, -1]
    for task in runs.values():
        for key, row in task.rows.items():
            if row.modality is None and key != "joint":
                assert task.difference(key, "joint", "accuracy").verdict >= 0


def test_what_the_page_about_longer_training_says_holds():
    (long,), short = load("longer").values(), load("heads")["kanji"]
    words = words_of("longer")

    def both(key):
        return [round(mean(task.values(key, "accuracy"))) for task in (short, long)]

    for key, text in {
        "joint": "{} % (kanji in [heads](../heads/README.md), other seeds) to {},",
        "unimodal-image": "the picture alone goes from {} to {}:",
        "midas": "MIDAS goes from {} to {} %,",
        "plain-swap": "the plain swap from {} to {},",
        "skill": "skill from {} to {},",
        "skill-heads-fitted-heads": "fitted heads from {} to {}.",
    }.items():
        assert text.format(*both(key)) in words
    gaps = [
        round(-task.difference("joint", "unimodal-image", "accuracy").mean)
        for task in (short, long)
    ]
    assert "the gap grows from {} points to {}.".format(*gaps) in words
    gain = long.difference("midas", "joint", "accuracy")
    comparison = words_in(COMPARISON)
    assert f"joint training is {gaps[1]} points below the picture alone, and MIDAS" in comparison
    assert f"MIDAS {gain.mean:.0f} above joint training ([longer]" in comparison
    assert (gain.verdict, f"joint training by {said(gain)} points" in words) == (1, True)
    gain = long.difference("midas", "plain-swap", "accuracy")
    assert (gain.verdict, gain.won, f"by {said(gain)}. Skill" in words) == (1, 5, True)
    assert long.difference("skill", "unimodal-image", "accuracy").verdict == 0
    fitted = "late-fusion-fitted"
    swaps = [
        f"{name}-fitted-heads" for name in ("midas", "skill", "plain-swap-heads", "skill-heads")
    ]
    means = [mean(long.values(key, "accuracy")) for key in swaps]
    assert f"have {min(means):.1f} to {max(means):.1f} %; fitted late fusion has" in words
    assert f"has {mean(long.values(fitted, 'accuracy')):.1f}. The" in words
    assert long.difference("skill-heads-fitted-heads", fitted, "accuracy").verdict == 0
    ahead = long.difference("plain-swap-heads-fitted-heads", fitted, "accuracy")
    assert (ahead.verdict, f"is ahead by {said(ahead)}.)" in words) == (1, True)
    below = long.difference("midas-fitted-heads", "midas", "accuracy").mean
    assert f"own fusion layer is {below:.0f} points below" in words
    assert f"weights it has {both('joint-fitted')[1]} %" in words


def test_what_the_page_about_rivals_says_holds():
    runs, words = load("rivals"), words_of("rivals")
    kanji, older = suite.SUITES["rivals"].tasks[:5], suite.SUITES["rivals"].tasks[5:]
    ours, fitted = "skill-heads-fitted-heads", "late-fusion-fitted"

    def over(row, task):
        """A row against each of the twenty."""
        return {key: runs[task].difference(row, key, "accuracy") for key in RIVALS}

    def against_joint(task, verdict, rows):
        found = {key: runs[task].difference(key, "joint", "accuracy") for key in rows}
        return {key: one.mean for key, one in found.items() if one.verdict == verdict}

    assert len(RIVALS) == 20
    gains = {(task, key): one for task in kanji for key, one in over(ours, task).items()}
    assert {one.verdict for one in gains.values()} == {1}
    means = {place: one.mean for place, one in gains.items()}
    low, high = (bound(means.values()) for bound in (min, max))
    assert f"by {low:.1f} points (ARL as released on kanji-words) to {high:.1f}. Skill" in words
    assert min(means, key=means.get) == ("kanji-words", "arl-released")
    plain = {(task, key): one.mean for task in kanji for key, one in over("skill", task).items()}
    assert min(plain, key=plain.get) == ("kanji-words", "arl-released")
    assert f"than ARL as released on kanji-words only by {min(plain.values()):.1f} points." in words

    midas = {task: over("midas", task) for task in kanji}
    higher = {task: sum(one.mean < 0 for one in midas[task].values()) for task in kanji}
    assert list(higher.values()) == [0, 0, 5, 0, 13]
    clear = {task: sum(one.verdict > 0 for one in midas[task].values()) for task in kanji}
    assert [clear[task] for task in ("kanji", "kanji3", "kanji3-words")] == [15, 20, 20]
    behind = {
        (task, key): f"{-one.mean:.1f}"
        for task in kanji
        for key, one in midas[task].items()
        if one.verdict < 0
    }
    assert behind == {
        ("kanji-words", "zero-ablated"): "2.2",
        ("kanji-words", "arl"): "3.2",
        ("kanji-words", "arl-released"): "3.3",
        ("kanji-still", "arl"): "4.1",
    }
    verdicts = [runs[task].difference("midas", "joint", "accuracy").verdict for task in kanji]
    assert verdicts == [1, 1, 1, 1, 0]

    better = [key for task in kanji for key in against_joint(task, 1, RIVALS)]
    assert {key: better.count(key) for key in better} == {
        "zero-ablated": 5, "arl-released": 5, "arl": 5, "mmpareto": 4, "masam": 4, "detached": 4,
        "unimodal-losses": 4, "tcmax": 2, "aug": 2, "inforeg": 2, "pretrained": 1, "pdmp": 1,
        "ogm-ge": 1, "same-class": 1, "mixup": 1,
    }  # fmt: skip
    worse = [key for task in kanji for key in against_joint(task, -1, RIVALS)]
    assert {key: worse.count(key) for key in worse} == {
        "remix": 4, "ogm-ge": 2, "cggm": 2, "inforeg": 2, "agm": 2, "modality-dropout": 1, "dgl": 1,
        "mixup": 1,
    }  # fmt: skip
    assert {"dgl", "modality-dropout", "mixup"} <= set(against_joint("kanji-words", -1, RIVALS))
    assert set(RIVALS) == set(better) | set(worse)
    tuned = runs["kanji3"].rows["dgl"]
    assert next(iter(tuned.records.values()))["config"]["learning_rate"] == 0.01
    dgl = [mean(tuned.score("accuracy")), 100 * untuned(load("competition")["kanji3"], "dgl")]
    assert f"has {dgl[0]:.0f} % on kanji3, where" in words
    assert f"it has {dgl[1]:.0f}." in words

    for row in ("joint", "plain-swap", "midas"):
        assert {runs[task].difference(ours, row, "accuracy").verdict for task in kanji} == {1}
    assert all(runs[task].difference(ours, "joint", "accuracy").verdict >= 0 for task in runs)
    late = [runs[task].difference(ours, fitted, "accuracy") for task in kanji]
    assert [one.verdict for one in late] == [0, 0, 0, 0, 0]
    other = "plain-swap-heads-fitted-heads"
    assert {runs[task].difference(ours, other, "accuracy").verdict for task in kanji} == {0}
    pooled = []
    for task in kanji:
        both = (load("heads")[task], runs[task])
        columns = [[v for one in both for v in one.values(k, "accuracy")] for k in (ours, fitted)]
        pooled.append(paired_difference(*columns))
    assert {(one.verdict, one.seeds) for one in pooled} == {(0, 15)}
    numbers = [f"{one.mean:+.1f}".replace("-", "−") for one in pooled]
    assert "fusion are {}, {}, {}, {} and {} on the five".format(*numbers) in words

    rows = [
        key for key, row in runs["brca"].rows.items() if row.modality is None and key != "joint"
    ]
    found = {
        (task, key): f"{gain:+.1f}"
        for task in older
        for verdict in (1, -1)
        for key, gain in against_joint(task, verdict, rows).items()
    }
    assert found == {
        ("digits-3", "dgl"): "-2.0",
        ("digits-3", "remix"): "-3.0",
        ("watch", "plain-swap"): "+7.3",
        ("watch", "arl"): "+6.3",
        ("watch", "masam"): "+4.0",
        ("brca", "midas"): "-4.4",
        ("brca", "plain-swap-heads"): "-3.5",
        ("brca", "inforeg"): "-2.4",
    }


def test_what_the_page_about_older_rivals_says_holds():
    runs, words = load("older-rivals"), words_of("older-rivals").replace("−", "-")
    ours, older = "skill-heads-fitted-heads", tuple(OLDER)
    assert len(older) == 8

    def over(row):
        return {
            (task, key): runs[task].difference(row, key, "accuracy")
            for task in runs
            for key in older
        }

    gains = over(ours)
    ties = {place: one for place, one in gains.items() if one.verdict == 0}
    assert set(ties) == {("kanji-words", "lfm"), ("kanji-words", "smv")}
    assert -1 not in {one.verdict for one in gains.values()}
    lfm, best = (mean(runs["kanji-words"].values(key, "accuracy")) for key in ("lfm", ours))
    assert f"it has {lfm:.1f} %; skill" in words
    assert f"has {best:.1f}, a difference of {said(ties['kanji-words', 'lfm'])}." in words
    for low, high, places in (
        (15, 35, [(task, key) for task in ("kanji", "kanji3") for key in ("lfm", "smv")]),
        (10, 55, [place for place in gains if place not in ties]),
    ):
        found = [gains[place].mean for place in places]
        assert (round(min(found)), round(max(found))) == (low, high)

    midas = over("midas")
    better = [place for place, one in midas.items() if one.verdict == 1]
    assert [sum(task == name for name, _ in better) for task in runs] == [6, 7, 6]
    below = {place: one for place, one in midas.items() if one.verdict == -1}
    assert set(below) == {("kanji-words", "lfm"), ("kanji-words", "smv")}
    sizes = {key: said(one._replace(mean=-one.mean)) for (_, key), one in below.items()}
    assert f"MIDAS is {sizes['lfm']} points below LFM there, and {sizes['smv']} below SMV" in words
    for theirs in ("joint", "plain-swap"):
        assert {runs[task].difference("midas", theirs, "accuracy").verdict for task in runs} == {1}

    def tasks(key, verdict):
        verdicts = {t: runs[t].difference(key, "joint", "accuracy").verdict for t in runs}
        return [task for task, one in verdicts.items() if one == verdict]

    for key in ("lfm", "smv"):
        assert tasks(key, 1) == list(runs)
    for key in ("powmix", "opm", "amco"):
        assert (tasks(key, 1), tasks(key, -1)) == (["kanji3"], ["kanji-words"])
    assert (tasks("lemda", 1), tasks("lemda", -1)) == ([], ["kanji3", "kanji-words"])
    for key in ("ogm", "mcr"):
        assert tasks(key, 0) == list(runs)
    (chosen,) = {
        row["config"]["learning_rate"] for row in runs["kanji"].rows["lfm"].records.values()
    }
    assert chosen == 0.2
    page = (RESULTS / "older-rivals" / "README.md").read_text(encoding="utf-8")
    assert "over all 63 comparisons too, of which 46 are." in page
    assert "leaves 46 of the 63 comparisons." in words


def test_what_the_page_about_validation_rows_says_holds():
    runs, words = load("apart"), words_of("apart")
    ours = "skill-heads-fitted-heads"
    pairs = [
        (ours, f"{ours}-apart"),
        (ours, "skill-heads-thirds-fitted-heads-apart"),
        ("skill-heads", "skill-heads-thirds"),
    ]
    for task in ("kanji", "kanji3"):
        for pair in pairs:
            found = runs[task].difference(*pair, "accuracy")
            assert found.verdict == 0
            assert abs(found.mean) < 1
            assert found.margin < 2.1
    watch = runs["watch"]
    joint, cut = (watch.difference(ours, row, "accuracy") for row in ("joint", pairs[1][1]))
    for found in (joint, cut):
        assert (found.verdict, found.won) == (0, 0)
        assert f"({said(found)})".replace("-", "−") in words
    before = load("heads")["watch"].difference(ours, "joint", "accuracy")
    again = load("rivals")["watch"].difference(ours, "joint", "accuracy")
    assert f"were {said(before)} and {again.mean:.1f}.".replace("-", "−") in words


def test_what_the_page_about_other_rules_says_holds():
    runs, words = load("rules"), words_of("rules").replace("−", "-")
    ours, fitted = "skill-heads-fitted-heads", "late-fusion-fitted"
    kanji = ("kanji", "kanji3", "kanji-words")

    def over(rule, theirs="skill-heads", tasks=tuple(runs)):
        return [runs[task].difference(rule, theirs, "accuracy") for task in tasks]

    better = [
        (rule, task)
        for rule in RULES
        for task, one in zip(runs, over(rule), strict=True)
        if one.verdict > 0
    ]
    assert better == [("skill-mixed", "kanji")]
    for rule in RULES:
        assert all(one.verdict == 0 for one in over(f"{rule}-fitted-heads", ours))
        assert all(one.verdict >= 0 for one in over(rule, "joint"))
    mixed = over("skill-mixed", tasks=kanji)
    assert [one.won for one in mixed[:2]] == [5, 5]
    assert (
        f"is ahead by {said(mixed[0])} points on kanji; on kanji3 it is +{said(mixed[1])}" in words
    )
    assert f"and on kanji-words {mixed[2].mean:.1f}." in words
    for rule, text in {
        "skill-hard": "({:+.1f}, {:+.1f} and {:+.1f} where",
        "skill-any": "neither ({:+.1f}, {:+.1f} and {:+.1f}).",
        "skill-folds": "{:+.1f}, {:+.1f} and {:+.1f} points there",
    }.items():
        assert text.format(*(one.mean for one in over(rule, tasks=kanji))) in words
    (brca,) = over("skill-folds", tasks=("brca",))
    assert f"there, {brca.mean:+.1f} on brca" in words
    confident, weighed = over("skill-confidence"), over("skill-sets-weight")
    assert [one.verdict for one in confident] == [0] * 5
    assert f"on five ({said(confident[0])})" in words
    assert [one.verdict for one in weighed] == [-1, -1, -1, 0, 0]
    sizes = [said(one) for one in weighed]
    assert f"({sizes[0]} on kanji, {sizes[1]} on kanji3, {sizes[2]} on kanji-words)" in words
    ahead = {rule: over(rule, "joint", ("openmoji",))[0] for rule in RULES}
    assert [rule for rule, one in ahead.items() if one.verdict] == ["skill-sets-weight"]
    assert f"on openmoji, by {said(ahead['skill-sets-weight'])}." in words
    assert [one.verdict for one in over("skill-five")] == [0] * 5
    alike = [
        one.mean for r in RULES if r != "skill-five" for one in over(f"{r}-fitted-heads", ours)
    ]
    assert max(map(abs, alike)) < 1.05
    late = {
        (task, rule): found
        for rule in RULES
        for task, found in zip(runs, over(f"{rule}-fitted-heads", fitted), strict=True)
        if found.verdict
    }
    assert set(late) == {("kanji-words", "skill-any")}
    assert f"ahead by {said(late['kanji-words', 'skill-any'])} on kanji-words." in words
    page = (RESULTS / "rules" / "README.md").read_text(encoding="utf-8")
    assert "over all 145 comparisons too, of which 18 are." in page


def test_what_the_page_about_weight_decay_says_holds():
    runs, words = load("decay"), words_of("decay")

    def both(ours, theirs):
        return [task.difference(ours, theirs, "accuracy") for task in runs.values()]

    def size(difference):
        return said(difference._replace(mean=abs(difference.mean)))

    chosen = {
        key: next(iter(runs["kanji"].rows[f"{key}-decay"].records.values()))["config"][
            "weight_decay"
        ]
        for key in DECAYED
    }
    assert chosen == {
        "late-fusion": 1e-3, "joint": 3e-3, "plain-swap": 3e-3, "midas": 1e-4, "skill-heads": 1e-4,
    }  # fmt: skip
    for key in ("midas", "skill-heads"):
        assert {(one.mean, one.margin) for one in both(f"{key}-decay", key)} == {(0.0, 0.0)}
    joint, swap = both("joint-decay", "joint"), both("plain-swap-decay", "plain-swap")
    assert [one.verdict for one in (*joint, *swap)] == [0, -1, 0, -1]
    assert f"joint training gains {size(joint[0])} points on kanji" in words
    assert f"it loses {size(joint[1])}." in words
    assert f"gains {size(swap[0])} and loses {size(swap[1])}." in words
    below = both("joint-decay", "unimodal-image")
    assert [one.verdict for one in below] == [-1, -1]
    assert f"stays {size(below[0])} below the picture alone" in words
    late = both("late-fusion-decay", "late-fusion")
    assert [one.verdict for one in late] == [1, 0]
    assert f"{size(late[0])} points as it is" in words
    means = [
        mean(runs["kanji"].values(key, "accuracy"))
        for key in ("late-fusion-decay-fitted", "late-fusion-fitted")
    ]
    assert "it has {:.1f} % with and {:.1f} without".format(*means) in words
    midas, over_swap = both("midas-decay", "joint-decay"), both("midas-decay", "plain-swap-decay")
    assert [one.verdict for one in (*midas, *over_swap)] == [1, 1, 0, 1]
    assert f"by {said(midas[0])} points on kanji and {said(midas[1])} on kanji-words" in words
    assert f"by {said(over_swap[1])} on kanji-words ({said(over_swap[0])} on kanji" in words
    heads = both("skill-heads-decay", "midas-decay")
    assert [one.verdict for one in heads] == [1, 1]
    assert f"than MIDAS by {said(heads[0])} and {said(heads[1])}." in words
    ours = "skill-heads-decay-fitted-heads"
    ahead = [one for row in ("joint", "plain-swap", "midas") for one in both(ours, f"{row}-decay")]
    assert {one.verdict for one in ahead} == {1}
    low, high = (bound(one.mean for one in ahead) for bound in (min, max))
    assert f"by {low:.0f} to {high:.0f} points" in words
    fused = both(ours, "late-fusion-decay-fitted")
    assert [one.verdict for one in fused] == [0, 1]
    assert f"ties on kanji (+{said(fused[0])})" in words
    assert f"on kanji-words (+{said(fused[1])})" in words
    page = words_in(COMPARISON)
    assert f"stays {round(-below[0].mean)} and {round(-below[1].mean)} points below" in page
