"""Logits in a table, a row of the model's in each row: a DataFrame, a CSV or a Parquet file."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from midas_aug._arrays import NDArray
from midas_aug._extras import require
from midas_aug.errors import MidasAugError

__all__ = ["TABLES", "DataFrame", "TableArrays", "arrays_of_table", "place_of", "read_table"]

TABLES = (".csv", ".parquet")  # endings of files
LABEL = "label"
NUMBERED = re.compile(r"(.+)_(\d+)")
SHOWN = 5  # columns that an error names


class TableArrays(dict[str, NDArray]):
    """Arrays by name that come from the columns of a table: errors speak of its cells."""


class DataFrame(Protocol):
    """What is asked of a table: that of pandas has it, and that of polars."""

    @property
    def columns(self) -> Iterable[Any]:
        """The names of the columns."""
        ...

    def __getitem__(self, column: Any, /) -> Any:
        """A column."""
        ...


def read_table(path: str | Path) -> TableArrays:
    """The arrays in a CSV or a Parquet file, see `arrays_of_table` (needs the extra ``tables``).

    Raises:
        MidasAugError: There is no such file, it is damaged, or it has other columns.
    """
    require("pandas", f"the table {path}", "tables")
    import pandas as pd

    try:
        read = pd.read_csv if Path(path).suffix.lower() == ".csv" else pd.read_parquet
        table = read(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MidasAugError(f"expected a file {path}, got {reason}") from None
    except ImportError:
        require("pyarrow", f"the table {path}", "tables")
        raise
    except Exception as error:  # of parsers in other languages: whatever damage makes them raise
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise MidasAugError(
            f"expected to read the table {path}, got {reason!r}; {path} is damaged or no table: "
            "save it again"
        ) from None
    return arrays_of_table(table)


def arrays_of_table(table: DataFrame) -> TableArrays:
    """The arrays that `report_from_logits` takes, from the columns of a table.

    A column holds one class: ``logits_0``, ``logits_1``, … of the whole model, and likewise
    ``removed_video_0``, ``alone_video_0``, ``head_video_0``, ``all_removed_0``. Labels are the
    column ``label``, or ``label_0``, ``label_1``, … where a label is several numbers.

    Raises:
        MidasAugError: A column is called otherwise, or one is missing between two.

    Example:
        >>> import pandas as pd
        >>> from midas_aug.diagnostics.tables import arrays_of_table
        >>> table = pd.DataFrame({"label": [1, 0], "logits_0": [0.5, 2.0], "logits_1": [1.5, 1.0]})
        >>> arrays_of_table(table)["logits"]
        array([[0.5, 1.5],
               [2. , 1. ]])
    """
    names = list(table.columns)
    numbered: dict[str, dict[int, Any]] = {}
    others = []
    for name in names:
        found = NUMBERED.fullmatch(str(name))
        if found is not None:
            numbered.setdefault(found[1], {})[int(found[2])] = name
        elif name != LABEL:
            others.append(str(name))
    if others:
        raise MidasAugError(
            f"expected columns such as 'label', 'logits_0' or 'removed_video_0', a number for "
            f"each class, got {_shown(others)}; leave other columns out, and the index "
            "(index=False)"
        )
    arrays = TableArrays()
    if LABEL in names:
        if LABEL in numbered:
            raise MidasAugError("expected 'label' or 'label_0', 'label_1', …, got both")
        arrays["labels"] = np.asarray(table[LABEL])
    for group, columns in numbered.items():
        missing = [f"{group}_{number}" for number in range(len(columns)) if number not in columns]
        if missing:
            raise MidasAugError(
                f"expected {len(columns)} columns from {group}_0 on, got none called {missing[0]}; "
                "one column a class, numbered from 0"
            )
        each = [np.asarray(table[columns[number]]) for number in range(len(columns))]
        arrays["labels" if group == LABEL else group] = np.stack(each, axis=1)
    return arrays


def place_of(given: Mapping[str, NDArray], key: str) -> str:
    """Where an array lies, as an error calls it: its name, or the columns of a table."""
    if not isinstance(given, TableArrays):
        return repr(key)
    kind = "columns" if given[key].ndim == 2 else "column"
    return f"the {kind} {_columns(key, given[key])}"


def check_scores(given: Mapping[str, NDArray], key: str) -> None:
    """Raise where an array of a table holds no numbers with a fraction, of a table in its words.

    Raises:
        MidasAugError: They are whole numbers alone, as of a class that was picked, or no numbers.
    """
    kind = given[key].dtype.kind
    if not isinstance(given, TableArrays) or kind == "f":
        return
    got = "whole numbers alone" if kind in "iu" else "something else"
    raise MidasAugError(
        f"expected scores, numbers with a fraction, in the columns {_columns(key, given[key])}, "
        f"got {got}; write what the model gives before it is rounded or a class is picked, and a "
        "score that is whole as in 2.0"
    )


def check_indices(given: Mapping[str, NDArray], key: str) -> None:
    """Raise where an array of a table holds no integers, of a table in its words.

    Raises:
        MidasAugError: Cells are blank, or no whole numbers.
    """
    array = given[key]
    if not isinstance(given, TableArrays) or array.dtype.kind in "iu":
        return
    cells = array.ravel().tolist()
    blank = sum(map(_is_blank, cells))
    where = f"every cell of {_columns(key, array)}"
    if blank:
        raise MidasAugError(
            f"expected the index of a class in {where}, got {blank} blank of {len(cells)}; write "
            "-1 where a row is not to count"
        )
    raise MidasAugError(
        f"expected the index of a class, a whole number written without a point, in {where}, got "
        f"{cells[0]!r}; number the classes as the columns of the logits are, or say what a label "
        "is (--target, target=)"
    )


def _is_blank(cell: Any) -> bool:
    return str(cell) in ("nan", "None", "<NA>")  # a number, of polars, of pandas


def _columns(key: str, array: NDArray) -> str:
    group = LABEL if key == "labels" else key
    return f"{group}_0, …, {group}_{array.shape[1] - 1}" if array.ndim == 2 else group


def _shown(names: list[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")
