"""Training, validation and test clips: 70, 10 and 20 per cent, the same ever after.

Stratified by class, as the paper has them, or with every speaker in one part alone.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import DataError
from benchmarks.common.records import damaged, read_json, write_json
from benchmarks.paper.datasets.base import Clip, Part

PARTS: tuple[Part, ...] = ("train", "validation", "test")
FOLDS = 5
GROUPS = 2 * FOLDS  # of speakers: a fold tests on two, and picks the epoch on a third


class Split(NamedTuple):
    """Places in the list of clips, ascending."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def draw_split(clips: Sequence[Clip], seed: int) -> Split:
    """The split of a seed; the data set's own one, whatever the seed, where it has one.

    As the paper's: 30 % are set aside from all clips, and two thirds of those to test on, so that
    the counts are the same as in its Table 5.

    Raises:
        DataError: If a class has too few clips for all three parts.
    """
    if clips and all(clip.part is not None for clip in clips):
        parts = np.array([clip.part for clip in clips])
        return Split(*(np.flatnonzero(parts == part) for part in PARTS))
    from sklearn.model_selection import train_test_split

    labels = np.array([clip.label for clip in clips])
    places = np.arange(len(clips))
    try:
        train, rest = train_test_split(places, test_size=0.3, stratify=labels, random_state=seed)
        validation, test = train_test_split(
            rest, test_size=2 / 3, stratify=labels[rest], random_state=seed
        )
    except ValueError as error:
        counts = Counter(labels.tolist()).most_common()
        fewest = ", ".join(f"{count} of class {label}" for label, count in counts[:-4:-1])
        raise DataError(
            f"{len(clips)} clips cannot be split 70/10/20 by class (fewest: {fewest or 'none'}): "
            f"{error}"
        ) from None
    return Split(np.sort(train), np.sort(validation), np.sort(test))


def draw_speaker_split(clips: Sequence[Clip], seed: int, speaker_of: Callable[[str], str]) -> Split:
    """One of five folds: every speaker is in one part alone.

    Seeds 0 to 4 are the five folds of one deal of the speakers, in which every clip is tested on
    once, seeds 5 to 9 those of the next, and so on. The order of a deal comes from a hash, so it is
    the same with every version of every library.

    Args:
        clips: To split.
        seed: Number of the deal times five, plus number of the fold.
        speaker_of: Who speaks in a clip, by its name.

    Raises:
        DataError: If there are fewer than ten speakers.
    """
    deal, fold = divmod(seed, FOLDS)
    speakers = [speaker_of(clip.name) for clip in clips]
    order = sorted(set(speakers), key=lambda one: hashlib.sha256(f"{deal} {one}".encode()).digest())
    if len(order) < GROUPS:
        raise DataError(
            f"expected clips of at least {GROUPS} speakers, to split them 70/10/20 by speaker, got "
            f"{len(order)}; add those that are missing, or leave --protocol out"
        )
    group = {speaker: place % GROUPS for place, speaker in enumerate(order)}
    turned = np.array([(group[speaker] - 2 * fold) % GROUPS for speaker in speakers])
    return Split(
        np.flatnonzero(turned > 2), np.flatnonzero(turned == 2), np.flatnonzero(turned < 2)
    )


def saved_split(
    clips: Sequence[Clip],
    seed: int,
    file: Path,
    speaker_of: Callable[[str], str] | None = None,
) -> Split:
    """The split in the file, by the names of the clips; drawn and written if there is none.

    It is drawn by speaker where it is told who speaks, else by class.

    A split that is there is not drawn again, whatever the version of the library that drew it.

    Raises:
        DataError: If the clips are no longer those that were split.
    """
    if not file.exists():
        if speaker_of is None:
            split = draw_split(clips, seed)
        else:
            split = draw_speaker_split(clips, seed, speaker_of)
        names = {
            part: [clips[place].name for place in places]
            for part, places in split._asdict().items()
        }
        write_json(file, names)
        return split
    place = {clip.name: number for number, clip in enumerate(clips)}
    names = read_json(file)
    if names.keys() != set(PARTS) or not all(map(_is_names, names.values())):
        raise damaged(file)
    listed = {name for part in PARTS for name in names[part]}
    if listed != set(place):
        gone, new = sorted(listed - set(place)), sorted(set(place) - listed)
        raise DataError(
            f"{file} splits other clips: {len(gone)} of them are not usable now "
            f"({', '.join(gone[:3]) or 'none'}), {len(new)} are new ({', '.join(new[:3]) or 'none'}"
            f"); restore the data, or delete the file and the runs beside it"
        )
    return Split(*(np.sort(np.array([place[n] for n in names[part]], np.int64)) for part in PARTS))


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
