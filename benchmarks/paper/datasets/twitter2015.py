"""Twitter2015: three sentiments of a tweet with a picture. Its layout is that of `image_text`."""

from benchmarks.paper.datasets.base import Table5
from benchmarks.paper.datasets.image_text import tweets

DATA = tweets("twitter2015", "Twitter2015", 3, Table5(3736, 534, 1068))
