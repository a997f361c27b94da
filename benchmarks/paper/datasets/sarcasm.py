"""Sarcasm: is a tweet with a picture sarcastic? Its layout is that of `image_text`."""

from benchmarks.paper.datasets.base import Table5
from benchmarks.paper.datasets.image_text import tweets

DATA = tweets("sarcasm", "Sarcasm", 2, Table5(17316, 2463, 4936))
