"""The finished runs of a suite, as the tables and figures want them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.compare.kept import Record
from benchmarks.compare.report.statistics import Difference, paired_difference
from benchmarks.compare.suite import beside_of, entries_of, load_records
from benchmarks.compare.tasks import TASKS

WITHOUT = "without"  # accuracy with a modality removed


@dataclass(frozen=True)
class Row:
    """One row of a task's tables: an entry, or the model of one modality alone."""

    title: str
    modality: str | None  # of a model that sees one alone
    records: Mapping[int, Record]  # by seed

    def score(self, name: str, seeds: Sequence[int] | None = None) -> list[float]:
        """A test score in percent, seed by seed; empty where the row has no such score."""
        chosen = sorted(self.records) if seeds is None else seeds
        tests = [self.records[seed]["test"] for seed in chosen]
        return [100 * test[name] for test in tests if name in test]


class TaskRuns:
    """All rows of one task.

    Attributes:
        rows: Those that claims are made about.
        beside: Those of fewer seeds, which would leave the means of all others with fewer seeds.

    Raises:
        ValueError: An entry has no finished run, or runs of two configurations.
    """

    def __init__(self, name: str, folder: Path, records: Iterable[Record]) -> None:
        self.name = name
        self.modalities = TASKS[name].modalities
        self.rows: dict[str, Row] = {}
        self.beside: dict[str, Row] = {}
        found: dict[str, dict[int, Record]] = {}
        for record in records:
            if (record["task"], record["phase"]) != (name, "test"):
                continue
            if record["epochs"] != TASKS[name].epochs:  # of an earlier protocol
                continue
            key = row_key(record["entry"], record["modality"])
            seeds = found.setdefault(key, {})
            if any(record["config"] != other["config"] for other in seeds.values()):
                raise ValueError(
                    f"{name}: runs of {key} with different configurations in "
                    f"{folder}; delete those that an earlier tuning chose"
                )
            seeds[record["seed"]] = record
        for entry, spec in entries_of(folder).items():
            for modality in self.modalities if spec.alone else (None,):
                key = row_key(entry, modality)
                if key not in found:
                    raise ValueError(
                        f"{name}: no finished run of {key}; run the suite to its end first"
                    )
                title = spec.title if modality is None else f"{modality} alone"
                rows = self.beside if entry in beside_of(folder) else self.rows
                rows[key] = Row(title, modality, found[key])

    def common_seeds(self, one: str, other: str) -> list[int]:
        """Seeds that both rows have."""
        return sorted(self.rows[one].records.keys() & self.rows[other].records.keys())

    def values(self, key: str, score: str, seeds: Sequence[int] | None = None) -> list[float]:
        """Test scores of a row, seed by seed; `WITHOUT` is the mean over the removed modality."""
        row = self.rows[key]
        if score != WITHOUT:
            return row.score(score, seeds)
        columns = [row.score(f"{WITHOUT}.{m}", seeds) for m in self.modalities]
        return [sum(column) / len(column) for column in zip(*columns, strict=True)]

    def difference(self, ours: str, theirs: str, score: str) -> Difference:
        """Paired, on the seeds that both rows have."""
        seeds = self.common_seeds(ours, theirs)
        return paired_difference(*(self.values(key, score, seeds) for key in (ours, theirs)))

    def difference_of_better(self, ours: str, theirs: str, score: str) -> Difference:
        """As `difference`, where each seed keeps the run of the two with more validation accuracy.

        Of equals, theirs. That is `midas_aug.recipes.no_harm`, from runs that are there.
        """
        seeds = self.common_seeds(ours, theirs)
        columns = {key: self.values(key, score, seeds) for key in (ours, theirs)}
        kept = [
            columns[ours if self._validated(ours, seed) > self._validated(theirs, seed) else theirs]
            for seed in seeds
        ]
        chosen = [column[place] for place, column in enumerate(kept)]
        return paired_difference(chosen, columns[theirs])

    def _validated(self, key: str, seed: int) -> float:
        return float(self.rows[key].records[seed]["validation"]["accuracy"])

    @property
    def shared_seeds(self) -> list[int]:
        """Seeds that all rows have: means over these can be compared down a column."""
        return sorted(set.intersection(*(set(row.records) for row in self.rows.values())))

    def cost(self, key: str, name: str) -> float:
        """Steps or seconds relative to joint training: the median over the common seeds."""
        ours, joint = self.rows[key].records, self.rows["joint"].records
        seeds = self.common_seeds(key, "joint")
        return median(float(ours[seed][name] / joint[seed][name]) for seed in seeds)


def row_key(entry: str, modality: str | None) -> str:
    """What a row is called in files and tables."""
    return entry if modality is None else f"{entry}-{modality}"


def load_runs(folder: Path, tasks: Sequence[str]) -> dict[str, TaskRuns]:
    """The finished runs, by task."""
    records = load_records(folder)
    return {name: TaskRuns(name, folder, records) for name in tasks}
