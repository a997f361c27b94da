"""Partners of another class: ours against what people write, with ``torch.sort`` as the floor."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.speed.measure import Call, Case
from midas_aug.functional import permutation_partners, sample_partners

SKEWS = ("uniform", "zipf", "95 %")


def cases(device: torch.device, small: bool) -> Iterator[Case]:
    """N from 64 to a million, 2 to 1000 classes, three skews."""
    sizes = (64, 256) if small else (64, 1024, 8192, 65_536, 1_000_000)
    for rows in sizes:
        for classes in (2, 10) if small else (2, 10, 1000):
            for skew in SKEWS:
                labels = draw_labels(rows, classes, skew, device)
                yield Case(
                    "pairing",
                    {"N": rows, "C": classes, "skew": skew},
                    _variants(labels, classes),
                    reference="torch.sort",
                    memory=("torch.sort", "ours") if skew == "uniform" else (),
                )
    for rows in sizes:
        # The skews side by side, for the ratio between them.
        variants: dict[str, Call] = {
            skew: _ours(draw_labels(rows, 10, skew, device), 10) for skew in SKEWS
        }
        yield Case("pairing by skew", {"N": rows, "C": 10}, variants, reference="uniform")
    yield from _degenerate(device)


def draw_labels(rows: int, classes: int, skew: str, device: torch.device) -> Tensor:
    """``(N,)`` labels: all classes alike, by 1 / rank, or one class with 95 % of the rows."""
    weights = torch.ones(classes)
    if skew == "zipf":
        weights = 1 / torch.arange(1, classes + 1)
    elif skew == "95 %":
        weights = torch.full((classes,), 0.05 / max(classes - 1, 1))
        weights[0] = 0.95
    generator = torch.Generator().manual_seed(0)
    return torch.multinomial(weights, rows, replacement=True, generator=generator).to(device)


def _degenerate(device: torch.device) -> Iterator[Case]:
    """Batches in which nobody, or hardly anybody, has a partner."""
    batches = {
        "one row": torch.zeros(1, dtype=torch.int64),
        "one class": torch.zeros(64, dtype=torch.int64),
        "all ignored": torch.full((64,), -1),
        "one other row": torch.tensor([0] * 63 + [1]),
    }
    variants: dict[str, Call] = {"64 rows": _ours(draw_labels(64, 10, "uniform", device), 10)}
    for name, labels in batches.items():
        variants[name] = _ours(labels.to(device), 10)
    yield Case("degenerate batches", {"C": 10}, variants, reference="64 rows")


def _ours(labels: Tensor, classes: int) -> Call:
    return lambda: sample_partners(labels, num_classes=classes)


def _variants(labels: Tensor, classes: int) -> dict[str, Call]:
    short = labels.to(torch.int16)
    variants: dict[str, Call] = {
        "torch.sort": lambda: torch.sort(labels),
        "torch.sort, int16": lambda: torch.sort(short),
        "ours": _ours(labels, classes),
        "ours, C unknown": lambda: sample_partners(labels),
        "any permutation": lambda: permutation_partners(labels),
        "rejection": lambda: rejection(labels),
    }
    if len(labels) <= (1024 if labels.is_cuda else 8192):  # two syncs a row on a GPU
        variants["loop"] = lambda: loop(labels)
    if len(labels) <= 4096:
        variants["dense multinomial"] = lambda: dense(labels)
    return variants


def loop(labels: Tensor) -> Tensor:
    """A Python loop over rows: the candidates of each, and a choice."""
    partners = []
    for label in labels:
        candidates = (labels != label).nonzero()[:, 0]
        if len(candidates) == 0:
            partners.append(-1)
        else:
            partners.append(int(candidates[torch.randint(len(candidates), ())]))
    return torch.tensor(partners)


def dense(labels: Tensor) -> Tensor:
    """An N × N table of who may meet whom, and ``torch.multinomial``."""
    allowed = (labels[:, None] != labels).float()
    allowed[allowed.sum(dim=1) == 0] = 1
    return torch.multinomial(allowed, 1)[:, 0]


def rejection(labels: Tensor) -> Tensor:
    """Draw any row, and again for all that met their own class, at most 200 times.

    With a class of 95 % and many rows some are left over even then.
    """
    rows = len(labels)
    partner = torch.randint(rows, (rows,), device=labels.device)
    for _ in range(200):
        wrong = (labels[partner] == labels).nonzero()[:, 0]
        if len(wrong) == 0:
            break
        partner[wrong] = torch.randint(rows, (len(wrong),), device=labels.device)
    return partner
