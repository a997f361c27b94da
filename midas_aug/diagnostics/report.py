"""What `diagnose` found: scores with intervals, as a table, as a dict, and side by side."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from midas_aug._arrays import NDArray
from midas_aug.diagnostics import findings as finding_rules
from midas_aug.diagnostics.advice import Advice, advise, steps
from midas_aug.diagnostics.bootstrap import Score, interval
from midas_aug.diagnostics.class_pairs import ClassPair
from midas_aug.diagnostics.findings import Finding
from midas_aug.diagnostics.outputs import check_output, write_output
from midas_aug.diagnostics.page import Drawing, Said, Table, page
from midas_aug.diagnostics.scores import OF_A_MODALITY, OF_A_PAIR, OF_THE_MODEL, Kind
from midas_aug.diagnostics.wording import listed
from midas_aug.errors import MidasAugError

__all__ = ["Comparison", "ModalityReport"]


SHOWN = ("score", "level", "removal", "partners", "incomplete_rows")  # in the line above the table


@dataclass(frozen=True, eq=False)
class ModalityReport:
    """Scores of one model over one set of rows; made by `diagnose`.

    Attributes:
        name: What tables and figures call the model.
        modalities: Names, in order.
        scores: `Score` (value, low, high) by name. Fractions, not percent. Scores of a modality
            are called ``without.video``, ``cost.video`` and so on; docs/diagnostics.md explains
            each.
        settings: How the scores were made: ``n_rows``, ``n_classes``, ``level``, ``removal``,
            ``partners``, ``draws``, ``resamples``, ``seed``.
        hardness: Quantiles of the hard-sample weights by their level (``"0.5"``), empty where
            features are no vectors.
        class_pairs: Pairs of classes whose misaligned rows the model gets wrong most often, the
            worst first: at most ten, with 20 rows or more, without intervals.
        labels: ``(N,)`` the rows' labels, to tell whether two reports are over the same rows.
        replicates: ``(R,)`` bootstrap replicates of each score.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import diagnose
        >>> inputs, labels = torch.eye(4).repeat(9, 1), torch.arange(36) % 4
        >>> batch = {"audio": inputs, "video": inputs, "label": labels}
        >>> deaf = diagnose(lambda b: b["video"], [batch], ("audio", "video"), name="deaf")
        >>> fair = diagnose(
        ...     lambda b: b["audio"] + b["video"], [batch], ("audio", "video"), name="fair"
        ... )
        >>> deaf.scores["cost.video"]
        Score(value=0.75, low=0.6111111111111112, high=0.8618055555555549)
        >>> deaf.findings[0].text[:50]
        'audio is not used: removing audio costs 0.0 ± 0.0 '
        >>> deaf.compare(fair).differences["fair"]["cost.video"].value
        -0.75
    """

    name: str
    modalities: tuple[str, ...]
    scores: Mapping[str, Score]
    settings: Mapping[str, Any]
    hardness: Mapping[str, float] = field(default_factory=dict)
    class_pairs: tuple[ClassPair, ...] = ()
    labels: NDArray = field(repr=False, default_factory=lambda: np.zeros(0, dtype=np.int64))
    replicates: Mapping[str, NDArray] = field(repr=False, default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """What the scores say in plain language, the most telling first."""
        return finding_rules.find(self.modalities, self.scores)

    @property
    def advice(self) -> list[Advice]:
        """What to do, the most useful first; empty where the scores do not tell."""
        return advise(self.modalities, self.scores, self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything but rows and replicates, ready for JSON (a missing number is None)."""
        return {
            "name": self.name,
            "modalities": list(self.modalities),
            "scores": {key: _plain(score) for key, score in self.scores.items()},
            "settings": dict(self.settings),
            "hardness": {key: _number(value) for key, value in self.hardness.items()},
            "class_pairs": [pair.to_dict() for pair in self.class_pairs],
            "findings": [finding.to_dict() for finding in self.findings],
            "advice": [advice.to_dict() for advice in self.advice],
        }

    def to_markdown(self) -> str:
        """The table and the findings in GitHub's Markdown."""
        tables = [_markdown(header, lines) for header, lines in self._tables()]
        return "\n\n".join([f"**{self.name}**: {self._how()}", *tables, *self._listed()]) + "\n"

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return self.to_markdown()

    def to_html(self) -> str:
        """One page to send: advice, findings, figure, tables (needs the extra ``diagnostics``)."""
        return page(
            f"How {self.name} uses {listed(self.modalities)}",
            self.describe(),
            [Said(self.name, self.advice, self.findings)],
            [Drawing(self.plot(), _caption([self]))],
            [Table(header, lines) for header, lines in (*self._tables(), *self._pairs())],
        )

    def _pairs(self) -> Iterator[tuple[list[str], list[list[str]]]]:
        if self.class_pairs:
            yield (
                ["misaligned rows of classes, the worst pairs", "accuracy", "rows"],
                [
                    [f"{low} and {high}", f"{100 * accuracy:.1f}", str(n_rows)]
                    for (low, high), accuracy, n_rows in self.class_pairs
                ],
            )

    def __str__(self) -> str:
        tables = [_text(header, lines) for header, lines in self._tables()]
        return "\n\n".join([f"{self.name}: {self._how()}", *tables, *self._listed()])

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the report, and save it where a path is given (needs the extra ``diagnostics``)."""
        from midas_aug.diagnostics.figures import draw_report

        return draw_report([self.to_dict()], path)

    def save(self, path: str | Path) -> None:
        """Write the report to a file that ends in .txt, .md, .json or .html.

        Raises:
            MidasAugError: The ending is another one, or the file cannot be written.
        """
        _save(self, path)

    def compare(self, *others: "ModalityReport") -> "Comparison":
        """This report (the baseline) beside others, with intervals of the paired differences.

        Args:
            others: Reports over the same rows in the same order, with the same seed.

        Raises:
            MidasAugError: The reports are not over the same rows, so nothing can be paired.
        """
        for other in others:
            if not isinstance(other, ModalityReport):
                raise MidasAugError(
                    f"expected reports to compare with, got {type(other).__name__}; pass what "
                    "diagnose or report_from_logits gave"
                )
            _check_pair(self, other)
        names = [report.name for report in (self, *others)]
        if len(set(names)) < len(names):
            raise MidasAugError(
                f"expected a name of its own for each report, got {names!r}; pass name= to diagnose"
            )
        return Comparison((self, *others))

    def _listed(self) -> list[str]:
        found = [f"- {finding.text}" for finding in self.findings]
        return ["\n".join(lines) for lines in (found, steps(self.advice)) if lines]

    def _how(self) -> str:
        return f"{self.describe()}\n(%, in brackets 95 % bootstrap intervals)"

    def named(self, label: str) -> str:
        """The label of a kind of score: accuracy is macro F1 or R² where labels are no classes."""
        metric = self.settings.get("score")
        if metric is None:
            return label
        return label.replace("accuracy", metric).replace("score", metric)

    def describe(self) -> str:
        """How the scores were made, in a line."""
        parts = [f"{self.settings['n_rows']} rows"]
        if "n_classes" in self.settings:
            parts.append(f"{self.settings['n_classes']} classes")
        parts += [f"{key}: {self.settings[key]}" for key in SHOWN if key in self.settings]
        return ", ".join(parts)

    def _tables(self) -> Iterator[tuple[list[str], list[list[str]]]]:
        overall = [
            [self.named(label), _cell(self.scores[key], kind)]
            for key, label, kind in _lines_of_the_model(self.modalities)
            if key in self.scores
        ]
        yield ["all modalities", self.name], overall
        each = [
            [
                self.named(kind.label),
                *(_cell(self.scores.get(kind.key(m)), kind) for m in self.modalities),
            ]
            for kind in _shown(OF_A_MODALITY)
            if any(kind.key(m) in self.scores for m in self.modalities)
        ]
        if each:
            yield ["each modality", *self.modalities], each


@dataclass(frozen=True)
class Comparison:
    """Reports side by side; the first is the baseline. Made by `ModalityReport.compare`.

    Tables have the intervals of the differences; those of the scores are in each report.
    """

    reports: tuple[ModalityReport, ...]

    @property
    def differences(self) -> dict[str, dict[str, Score]]:
        """For each report but the first, score minus the first's, with its paired interval."""
        base, *others = self.reports
        return {
            other.name: {
                key: interval(
                    score.value - base.scores[key].value,
                    other.replicates[key] - base.replicates[key],
                )
                for key, score in other.scores.items()
                if key in base.scores
            }
            for other in others
        }

    def to_dict(self) -> dict[str, Any]:
        """The reports and the differences, ready for JSON."""
        return {
            "reports": [report.to_dict() for report in self.reports],
            "differences": {
                name: {key: _plain(score) for key, score in scores.items()}
                for name, scores in self.differences.items()
            },
        }

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown."""
        return _markdown(*self._table()) + "\n"

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return self.to_markdown()

    def to_html(self) -> str:
        """One page to send: advice, findings, figure, tables (needs the extra ``diagnostics``)."""
        names = [report.name for report in self.reports]
        return page(
            f"How {listed(names)} use {listed(self.reports[0].modalities)}",
            self.reports[0].describe(),
            [Said(report.name, report.advice, report.findings) for report in self.reports],
            [Drawing(self.plot(), _caption(self.reports))],
            [Table(*self._table())],
        )

    def __str__(self) -> str:
        return _text(*self._table())

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the reports side by side (needs the extra ``diagnostics``)."""
        from midas_aug.diagnostics.figures import draw_report

        return draw_report([report.to_dict() for report in self.reports], path)

    def save(self, path: str | Path) -> None:
        """Write the comparison to a file that ends in .txt, .md, .json or .html.

        Raises:
            MidasAugError: The ending is another one, or the file cannot be written.
        """
        _save(self, path)

    def _table(self) -> tuple[list[str], list[list[str]]]:
        base, *others = self.reports
        differences = self.differences
        header = ["", *(r.name for r in self.reports), *(f"{r.name} - {base.name}" for r in others)]
        lines = []
        for key, label, kind in self._lines():
            cells = [_cell(report.scores.get(key), kind, bare=True) for report in self.reports]
            changes = [_cell(differences[r.name].get(key), kind, signed=True) for r in others]
            lines.append([base.named(label), *cells, *changes])
        return header, lines

    def _lines(self) -> Iterator[tuple[str, str, Kind]]:
        """Key, label and kind of each score that one of the reports has."""
        modalities = self.reports[0].modalities
        lines = [
            *_lines_of_the_model(modalities),
            *(
                (kind.key(m), f"{m}: {kind.label}", kind)
                for kind in _shown(OF_A_MODALITY)
                for m in modalities
            ),
        ]
        for key, label, kind in lines:
            if any(key in report.scores for report in self.reports):
                yield key, label, kind


FORMATS: dict[str, Callable[[ModalityReport | Comparison], str]] = {
    ".txt": lambda report: f"{report}\n",
    ".md": lambda report: report.to_markdown(),
    ".html": lambda report: report.to_html(),
    ".json": lambda report: json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n",
}


def _save(report: ModalityReport | Comparison, path: str | Path) -> None:
    place = check_output(path, list(FORMATS))
    content = FORMATS[place.suffix.lower()](report).encode()

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_output(place, write)


def _caption(reports: Sequence[ModalityReport]) -> str:
    modalities = listed(reports[0].modalities)
    metric = reports[0].named("accuracy")
    names = listed([report.name for report in reports])
    return (
        f"{metric[0].upper()}{metric[1:]} of {names}, and what each of {modalities} brings to it. "
        "All numbers are in the tables below."
    )


def _lines_of_the_model(modalities: Sequence[str]) -> Iterator[tuple[str, str, Kind]]:
    """Key, label and kind of each score that is not of one modality."""
    for kind in _shown(OF_THE_MODEL):
        yield kind.key(), kind.label, kind
    for kind in _shown(OF_A_PAIR):
        for pair in combinations(modalities, 2):
            yield kind.key(*pair), kind.label.format(*pair), kind


def _shown(kinds: Sequence[Kind]) -> Iterator[Kind]:
    return (kind for kind in kinds if kind.is_shown)


def _check_pair(first: ModalityReport, second: ModalityReport) -> None:
    if not np.array_equal(first.labels, second.labels):
        raise MidasAugError(
            f"expected reports over the same rows in the same order, got {len(first.labels)} rows "
            f"({first.name!r}) and {len(second.labels)} ({second.name!r}) whose labels differ; "
            "diagnose both with one loader that does not shuffle"
        )
    for key in ("seed", "resamples", "removal", "level"):
        one, other = first.settings.get(key), second.settings.get(key)
        if one != other:
            raise MidasAugError(
                f"expected reports with one {key}, got {one!r} ({first.name!r}) and {other!r} "
                f"({second.name!r}); their numbers cannot be paired"
            )


def _cell(score: Score | None, kind: Kind, *, signed: bool = False, bare: bool = False) -> str:
    if score is None or not np.isfinite(score.value):
        return ""
    is_fraction = kind.unit != "number"
    form = f"{'+' if signed else ''}.{1 if is_fraction else 2}f"
    value, low, high = (100 * number if is_fraction else number for number in score)
    text = f"{value:{form}}"
    return text if bare or np.isnan(low) else f"{text} [{low:{form}}, {high:{form}}]"


def _plain(score: Score) -> dict[str, float | None]:
    return {key: _number(value) for key, value in score.to_dict().items()}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _text(header: list[str], lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    texts = [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [header, *lines]
    ]
    return "\n".join([texts[0], "-" * len(max(texts, key=len)), *texts[1:]])


def _markdown(header: list[str], lines: list[list[str]]) -> str:
    marks = ["---"] + ["---:"] * (len(header) - 1)
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in [header, marks, *lines]]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
