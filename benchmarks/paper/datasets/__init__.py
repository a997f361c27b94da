"""The paper's data sets, read from where a user has them.

| name | clips, classes | modalities |
| --- | --- | --- |
| cremad | 7442, 6 | audio, video |
| kinetics-sounds | 24129, 31 | audio, video |
| ucf101 | 13085, 101 | flow, rgb |
| food101 | 90688, 101 | text, image |
| mosi | 2199, 2 | text, audio, video |
| sarcasm | 24715, 2 | image, text |
| twitter2015 | 5338, 3 | image, text |

Each module says how its files have to lie; `check` looks at a copy, `splits` divides it, `reading`
makes tensors of it, `store` is the cache, and `sample` writes small made-up copies.
`benchmarks.paper` trains on them.

Not to be confused with `benchmarks.compare.data`: the small data sets of the comparison, which are
downloaded and fit into memory.
"""

from benchmarks.common.errors import DataError
from benchmarks.paper.datasets import (
    cremad,
    food101,
    kinetics_sounds,
    mosi,
    sarcasm,
    twitter2015,
    ucf101,
)
from benchmarks.paper.datasets.base import PaperData

MODULES = (cremad, kinetics_sounds, ucf101, food101, mosi, sarcasm, twitter2015)
PAPER_DATA: dict[str, PaperData] = {module.DATA.name: module.DATA for module in MODULES}


def paper_data(name: str) -> PaperData:
    """The data set of this name."""
    if name not in PAPER_DATA:
        raise DataError(f"there is no data set {name}; choose from {', '.join(PAPER_DATA)}")
    return PAPER_DATA[name]
