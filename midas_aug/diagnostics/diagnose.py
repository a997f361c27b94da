"""One call that shows how a model uses its modalities."""

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from midas_aug._arrays import as_labels, as_tensor
from midas_aug.diagnostics import outcomes
from midas_aug.diagnostics.measures import (
    REMOVALS,
    Removal,
    Subset,
    all_subsets,
    check_logits,
    mean_of,
    spread,
)
from midas_aug.diagnostics.outcomes import Outcomes
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.errors import MidasAugError
from midas_aug.functional import (
    SwapPlan,
    hard_sample_weights,
    label_shares,
    sample_partners,
    true_class_confidence,
)
from midas_aug.tree import (
    get_item,
    in_order,
    item_keys,
    map_arrays,
    map_items,
    resolve_key,
    take_rows,
)

__all__ = ["diagnose"]

Predict: TypeAlias = Callable[[Any], Any]
Model: TypeAlias = Predict | tuple[Predict, Predict]
Data: TypeAlias = dict[Any, Any]

SHAPLEY_MODALITIES = 6  # 2^M passes; with more modalities the Shapley values are left out
FUSE_ROWS = 1024  # rows of features that go through the fusion at a time


def diagnose(
    model: Model,
    loader: Iterable[Any],
    modalities: Sequence[Hashable],
    *,
    num_classes: int | None = None,
    label: Hashable | Callable[[Any], Any] = "label",
    unimodal: Predict | None = None,
    training: Iterable[Any] | Mapping[Any, Any] | None = None,
    removal: Removal = "mean",
    draws: int = 5,
    resamples: int = 1000,
    seed: int = 0,
    name: str = "model",
    device: torch.device | str | None = None,
    progress: bool | None = None,
) -> ModalityReport:
    """Show how a trained classifier uses its modalities, on held-out rows.

    At *feature level* (``model`` is a pair) the encoders run once a batch, all features are kept,
    and partners come from the whole set. At *input level* (``model`` is one callable) modalities
    are swapped and removed in the batches themselves: partners come from the same batch, so its
    classes have to be mixed, and a batch passes 1 + 2·M·draws + 2^M − 1 times or so. Runs without
    gradient; modules (and the owners of bound methods) are put into eval mode and back.

    Args:
        model: ``callable(batch) -> logits (N, C)``, or ``(encode, fuse)`` with ``encode(batch) ->
            features by modality`` and ``fuse(features) -> logits (N, C)``.
        loader: Batches of tensors, in any structure; pass one that does not shuffle to compare
            reports. Rows with a negative label do not count.
        modalities: At least two keys: of the batch at input level, of the features at feature
            level.
        num_classes: C, to check the logits; None takes theirs.
        label: Key of the batch, or ``callable(batch) -> labels``.
        unimodal: Each modality's own classifier, ``callable -> {modality: logits (N, C)}`` of the
            features (feature level) or the batch (input level). Tells ignored modalities from
            those without a signal; needed for head accuracy, calibration and shares.
        training: Where the means for ``removal="mean"`` come from: a loader of training batches,
            or a mapping with the training rows of every modality. None takes the diagnosed rows.
        removal: What stands in for a removed modality: ``"zero"``, ``"mean"`` or ``"permute"``
            (another row's). SMV's and the paper's numbers are with zeros at feature level.
        draws: Draws of partners and permutations to average over.
        resamples: Bootstrap samples of the rows, for 95 % intervals.
        seed: Of partners, permutations and the bootstrap.
        name: What tables and figures call the model.
        device: Where to move the batches; None leaves them where they are.
        progress: Show a progress bar (with ``rich``); None shows it on a terminal.

    Returns:
        A `ModalityReport`: print it, or see ``scores``, ``findings``, ``to_dict()``, ``plot()``
        and ``compare(other)``.

    Raises:
        MidasAugError: An argument, a batch or what the model returns does not fit.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import diagnose
        >>> labels = torch.arange(40) % 4
        >>> inputs = torch.nn.functional.one_hot(labels).float()
        >>> batch = {"audio": inputs, "video": inputs, "label": labels}
        >>> hears_only = lambda batch: 9 * batch["audio"] + batch["video"]
        >>> report = diagnose(hears_only, [batch], ("audio", "video"))
        >>> round(report.scores["without.audio"].value, 2), report.scores["cost.video"].value
        (1.0, 0.0)
        >>> round(report.scores["confidence.audio"].value, 2)
        1.0
    """
    keys = tuple(modalities)
    _check_arguments(keys, removal, draws, resamples)
    names = tuple(str(key) for key in keys)
    generator = torch.Generator().manual_seed(seed)
    encode, fuse = _parts(model)
    functions = [f for f in (encode, fuse, unimodal) if f is not None]
    score = partial(
        _score, names=names, removal=removal, draws=draws, generator=generator, classes=num_classes
    )
    with torch.no_grad(), _evaluating(functions), _progress_bar(progress) as watch:
        read = partial(_read, keys=keys, label=label, device=device)
        means = None
        if removal == "mean" and (training is not None or encode is None):
            means = _means(training, loader, encode, keys, device, watch)
        if encode is not None:
            blocks = iter([_encoded(watch(loader, "encoding"), encode, fuse, unimodal, read)])
        else:
            blocks = _batches(watch(loader, "scoring"), fuse, unimodal, read)
        parts = [score(block, means) for block in blocks if len(block.labels) > 0]
    joined = outcomes.join(parts) if parts else None
    if joined is None or len(joined.labels) == 0:
        raise MidasAugError(
            "expected at least one row with a label of 0 or more, got none; check the loader and "
            "the label key"
        )
    settings = {
        "rows": len(joined.labels),
        "classes": parts[0].classes,
        "level": "input" if encode is None else "feature",
        "removal": _removal_text(removal, training),
        "partners": "from the batch" if encode is None else "from all rows",
        "draws": draws,
    }
    return joined.report(name, settings, resamples=resamples, seed=seed)


@dataclass
class _Block:
    """Rows that may trade modalities among themselves."""

    data: Data  # modalities by their keys, and whatever follows the anchor
    labels: Tensor  # (n,) on the CPU
    keys: tuple[Any, ...]  # of the modalities, in order
    predict: Callable[[Data], Tensor]
    unimodal: Callable[[], Mapping[Any, Any] | Sequence[Any] | None]
    slice_rows: int  # how many rows to predict at a time

    def logits(self, index: Mapping[Any, Tensor], rows_of: Mapping[Any, Any]) -> Tensor:
        """Predict with some modalities taken from other rows, and some replaced by one row."""
        count, pieces = len(self.labels), []
        for anchor in torch.split(torch.arange(count), self.slice_rows):
            mixed = {}
            for key, value in self.data.items():
                if key in rows_of:
                    mixed[key] = spread(rows_of[key], len(anchor))
                elif key in index:
                    mixed[key] = _rows(value, index[key][anchor], count, key)
                else:
                    whole = len(anchor) == count
                    mixed[key] = value if whole else _rows(value, anchor, count, key)
            pieces.append(self.predict(mixed))
        return torch.cat(pieces)


def _score(
    block: _Block,
    means: Mapping[Any, Any] | None,
    *,
    names: tuple[str, ...],
    removal: str,
    draws: int,
    generator: torch.Generator,
    classes: int | None,
) -> Outcomes:
    """Everything that one block of rows tells."""
    whole = _checked(block.logits({}, {}), block.labels, classes)
    labels = block.labels.to(whole.device)
    seen = Outcomes(names, labels, classes=whole.shape[1])
    seen.right[Subset(names)] = _right(whole, labels)

    unimodal = block.unimodal()
    confidence = None
    if unimodal is not None:
        each = in_order(unimodal, block.keys, "the unimodal logits")
        for name, given in zip(names, each, strict=True):
            seen.add_head(name, _checked(given, block.labels, whole.shape[1]).to(labels.device))
        confidence = torch.stack([seen.head_confidence[name] for name in names], dim=1)

    _swap(block, seen, confidence, draws, generator)
    _permute(block, seen, draws, generator)
    _remove(block, seen, _stand_ins(block, removal, means), draws, generator)
    return seen


def _swap(
    block: _Block,
    seen: Outcomes,
    confidence: Tensor | None,
    draws: int,
    generator: torch.Generator,
) -> None:
    """Misaligned rows: each modality in turn from a row of another class."""
    own, device = torch.arange(len(block.labels)), seen.labels.device
    plans = []
    for _ in range(draws):
        for number, key in enumerate(block.keys):
            partner, valid = sample_partners(block.labels, generator=generator)
            source = own[:, None].repeat(1, len(block.keys))
            source[:, number] = partner
            logits = block.logits({key: partner}, {})
            at, ok, given = source.to(device), valid.to(device), partner.to(device)
            seen.add_misaligned(logits, seen.labels[at], ok, given)
            if confidence is not None:
                seen.add_shares(label_shares(confidence, at), ok, given)
            plans.append(SwapPlan(source, own, valid))
    seen.hardness = _hardness([block.data[key] for key in block.keys], plans)


def _permute(block: _Block, seen: Outcomes, draws: int, generator: torch.Generator) -> None:
    """Each modality in turn from any other row."""
    for _ in range(draws):
        for number, (name, key) in enumerate(zip(seen.modalities, block.keys, strict=True)):
            order = torch.randperm(len(block.labels), generator=generator)
            logits, given = block.logits({key: order}, {}), order.to(seen.labels.device)
            source_labels = seen.labels[:, None].repeat(1, len(block.keys))
            source_labels[:, number] = seen.labels[given]
            seen.add_permuted(logits, source_labels, given)
            seen.add_permuted_right(name, _right(logits, seen.labels) / draws, given)


def _remove(
    block: _Block, seen: Outcomes, stand_ins: Data | None, draws: int, generator: torch.Generator
) -> None:
    """Every subset of modalities, the others removed; without stand-ins by permutation."""
    rows, labels = len(block.labels), seen.labels
    times = draws if stand_ins is None else 1
    for subset in _wanted_subsets(seen.modalities):
        names = zip(seen.modalities, block.keys, strict=True)
        gone = [key for name, key in names if name not in subset]
        right, confidence = torch.zeros(2, rows, device=labels.device)
        for _ in range(times):
            if stand_ins is None:
                orders = {key: torch.randperm(rows, generator=generator) for key in gone}
                logits = block.logits(orders, {})
            else:
                logits = block.logits({}, {key: stand_ins[key] for key in gone})
            right = right + _right(logits, labels) / times
            confidence = confidence + true_class_confidence(logits, labels) / times
        seen.right[subset] = right
        if len(subset) == 1:
            seen.alone[next(iter(subset))] = confidence


def _wanted_subsets(names: tuple[str, ...]) -> list[Subset]:
    if len(names) <= SHAPLEY_MODALITIES:
        return [subset for subset in all_subsets(names) if len(subset) < len(names)]
    singles = [Subset({name}) for name in names]
    return [*singles, *(Subset(names) - single for single in singles)]


def _stand_ins(block: _Block, removal: str, means: Mapping[Any, Any] | None) -> Data | None:
    """One row for each modality that is to be removed by zeros or a mean."""
    if removal == "permute":
        return None
    found = {}
    for key in block.keys:
        value = block.data[key]
        _require_arrays(value, key)
        if removal == "zero":
            zeros = [torch.zeros_like(leaf[0]) for leaf in _leaves(value)]
            found[key] = _rebuilt(value, zeros)
        else:
            found[key] = mean_of(value, str(key)) if means is None else means[key]
            found[key] = _like(found[key], value, key)
    return found


def _hardness(features: Sequence[Any], plans: Sequence[SwapPlan]) -> Tensor | None:
    """Hard-sample weights of the valid rows, where every feature is a vector."""
    if not all(isinstance(f, Tensor) and f.ndim == 2 and f.is_floating_point() for f in features):
        return None
    device = features[0].device
    moved = [SwapPlan(*(part.to(device) for part in plan)) for plan in plans]
    return torch.cat([hard_sample_weights(features, plan)[plan.valid] for plan in moved])


# ---------------------------------------------------------------- reading batches


def _read(batch: Any, *, keys: tuple[Any, ...], label: Any, device: Any) -> tuple[Any, Tensor]:
    """The batch on its device, and its labels on the CPU."""
    moved = _move(batch, device)
    given = label(moved) if callable(label) else get_item(moved, label, "label key")
    return moved, as_labels(given, "the labels").cpu()


def _batches(
    loader: Iterable[Any], predict: Predict, unimodal: Predict | None, read: Any
) -> Iterator[_Block]:
    for given in loader:
        batch, labels = read(given)
        keys = read.keywords["keys"]
        data = {key: get_item(batch, key, "modality") for key in keys}

        def mixed_batch(data: Data, batch: Any = batch) -> Any:
            spelled = {resolve_key(batch, key): value for key, value in data.items()}
            mixed = map_items(lambda key, value: spelled.get(key, value), batch)
            return predict(mixed)

        heads = (lambda: None) if unimodal is None else partial(unimodal, batch)
        yield _Block(data, labels, keys, mixed_batch, heads, max(len(labels), 1))


def _encoded(
    loader: Iterable[Any], encode: Predict, fuse: Predict, unimodal: Predict | None, read: Any
) -> _Block:
    keys = read.keywords["keys"]
    pieces, labels, heads = [], [], []
    for given in loader:
        batch, classes = read(given)
        features = encode(batch)
        data = {key: get_item(features, key, "feature") for key in item_keys(features)}
        for key in keys:
            get_item(features, key, "feature")
        pieces.append(data)
        labels.append(classes)
        if unimodal is not None:
            heads.append(in_order(unimodal(features), keys, "the unimodal logits"))
    if not pieces:
        return _Block({}, torch.zeros(0, dtype=torch.int64), keys, fuse, lambda: None, 1)
    data = {key: _concatenate([piece[key] for piece in pieces], key) for key in pieces[0]}
    given_heads = [torch.cat(logits) for logits in zip(*heads, strict=True)] if heads else None
    return _Block(data, torch.cat(labels), keys, fuse, lambda: given_heads, FUSE_ROWS)


def _means(
    training: Any,
    loader: Iterable[Any],
    encode: Predict | None,
    keys: tuple[Any, ...],
    device: Any,
    watch: Callable[..., Iterable[Any]],
) -> Data:
    """The mean row of every modality over the training rows, or over the diagnosed ones."""
    if isinstance(training, Mapping):
        return {key: mean_of(get_item(training, key, "modality"), str(key)) for key in keys}
    if training is None and iter(loader) is loader:
        raise MidasAugError(
            "expected a loader that can be read twice (once for the means of the inputs), got an "
            "iterator; pass a DataLoader or a list, training=, or another removal"
        )
    sums: dict[Any, list[Tensor]] = {}
    shapes: Data = {}
    rows = 0
    for given in watch(loader if training is None else training, "means"):
        batch = _move(given, device)
        data = batch if encode is None else encode(batch)
        for number, key in enumerate(keys):
            value = get_item(data, key, "modality")
            _require_arrays(value, key)
            count = len(_leaves(value)[0])
            added = [count * mean.float() for mean in _leaves(mean_of(value, str(key)))]
            if count == 0:
                continue
            if key in sums and [s.shape for s in sums[key]] != [a.shape for a in added]:
                raise MidasAugError(
                    f"expected {key!r} of one shape in all batches, got rows of "
                    f"{tuple(sums[key][0].shape)} and {tuple(added[0].shape)}; use "
                    "removal='permute', or work at feature level"
                )
            sums[key] = (
                [s + a for s, a in zip(sums[key], added, strict=True)] if key in sums else added
            )
            shapes.setdefault(key, value)
            rows += count if number == 0 else 0
    if not sums:
        raise MidasAugError("expected training batches with rows, got none; check training=")
    return {key: _rebuilt(shapes[key], [s / rows for s in sums[key]]) for key in keys}


def _move(batch: Any, device: Any) -> Any:
    if device is None:
        return batch
    return map_arrays(lambda array: as_tensor(array, "the batch").to(device), batch)


def _concatenate(trees: Sequence[Any], key: Any) -> Any:
    columns = zip(*(_leaves(tree) for tree in trees), strict=True)
    joined = []
    for leaves in columns:
        shapes = {tuple(leaf.shape[1:]) for leaf in leaves}
        if len(shapes) > 1:
            raise MidasAugError(
                f"expected the feature {key!r} of one shape in all batches, got rows of "
                f"{sorted(shapes)!r}; pad or pool them, or pass one callable(batch), which draws "
                "partners within a batch"
            )
        joined.append(torch.cat(leaves))
    return _rebuilt(trees[0], joined)


def _leaves(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_arrays(lambda array: found.append(as_tensor(array, "a modality")), tree)
    return found


def _rebuilt(tree: Any, leaves: Sequence[Any]) -> Any:
    """``tree`` with other arrays in the places of its own."""
    given = iter(leaves)
    return map_arrays(lambda _: next(given), tree)


def _like(means: Any, value: Any, key: Any) -> Any:
    """Means in the dtype and on the device of the arrays they stand in for."""
    wanted, given = _leaves(value), _leaves(means)
    if [leaf.shape[1:] for leaf in wanted] != [leaf.shape for leaf in given]:
        raise MidasAugError(
            f"expected means of {key!r} in the shape of its rows, "
            f"{[tuple(leaf.shape[1:]) for leaf in wanted]!r}, got "
            f"{[tuple(leaf.shape) for leaf in given]!r}; training= has to hold what the model sees"
        )
    return _rebuilt(means, [mean.to(leaf) for mean, leaf in zip(given, wanted, strict=True)])


def _rows(value: Any, index: Tensor, count: int, key: Any) -> Any:
    leaves = _leaves(value)
    at = index.to(leaves[0].device) if leaves else index
    return take_rows(value, at, count, path=str(key), strict=True, host_index=index.tolist)


def _require_arrays(value: Any, key: Any) -> None:
    if not _leaves(value):
        raise MidasAugError(
            f"expected the modality {key!r} to hold tensors, got {type(value).__name__}; it can "
            "only be removed with removal='permute'"
        )


# ---------------------------------------------------------------- checks and conveniences


def _check_arguments(keys: tuple[Any, ...], removal: str, draws: int, resamples: int) -> None:
    if len(keys) < 2 or len(set(keys)) < len(keys):
        raise MidasAugError(
            f"expected at least two different modalities, got {list(keys)!r}; name the keys of the "
            "batch (or of the features) that hold them"
        )
    if removal not in REMOVALS:
        raise MidasAugError(
            f"expected removal to be one of {list(REMOVALS)!r}, got {removal!r}; it says what "
            "stands in for a modality that is removed"
        )
    for what, number in (("draws", draws), ("resamples", resamples)):
        if number < 1:
            raise MidasAugError(f"expected {what} of at least 1, got {number}")


def _parts(model: Any) -> tuple[Predict | None, Predict]:
    if callable(model):
        return None, model
    if isinstance(model, tuple | list) and len(model) == 2 and all(map(callable, model)):
        return model[0], model[1]
    raise MidasAugError(
        f"expected model as a callable(batch) -> logits or a pair (encode, fuse) of callables, got "
        f"{type(model).__name__}; see the docstring for what each takes"
    )


def _checked(logits: Any, labels: Tensor, classes: int | None) -> Tensor:
    scores, _ = check_logits(logits, labels.to(as_tensor(logits, "the model's logits").device))
    if classes is not None and scores.shape[1] != classes:
        raise MidasAugError(
            f"expected logits of {classes} classes, got shape {tuple(scores.shape)}; check "
            "num_classes and what the model returns"
        )
    return scores


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == labels).float()


def _removal_text(removal: str, training: Any) -> str:
    if removal == "mean":
        return f"mean of the {'diagnosed' if training is None else 'training'} rows"
    return {"zero": "zeros", "permute": "other rows' values"}[removal]


@contextmanager
def _evaluating(functions: Sequence[Any]) -> Iterator[None]:
    """Eval mode for modules, and for the modules whose methods ``functions`` are."""
    owners = [f if isinstance(f, nn.Module) else getattr(f, "__self__", None) for f in functions]
    modules = {m for owner in owners if isinstance(owner, nn.Module) for m in owner.modules()}
    before = [(module, module.training) for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def _progress_bar(show: bool | None) -> Iterator[Callable[..., Iterable[Any]]]:
    """``watch(iterable, what)``, which shows how far the iteration is."""
    if show is None:
        show = sys.stderr.isatty()
    rich = _rich() if show else None
    if rich is None:
        yield lambda iterable, what: iterable
        return
    with rich.Progress(console=rich_console(), transient=True) as bar:

        def watch(iterable: Iterable[Any], what: str) -> Iterable[Any]:
            try:
                total = len(iterable)  # type: ignore[arg-type]
            except TypeError:  # a stream
                total = None
            watched: Iterable[Any] = bar.track(iterable, total=total, description=what)
            return watched

        yield watch


def _rich() -> Any:
    try:
        from rich import progress
    except ModuleNotFoundError:
        return None
    return progress


def rich_console() -> Any:
    """A console on stderr: what is printed on stdout stays clean."""
    from rich.console import Console

    return Console(stderr=True)
