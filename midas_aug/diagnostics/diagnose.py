"""One call that shows how a model uses its modalities."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch

from midas_aug.diagnostics.blocks import as_modalities
from midas_aug.diagnostics.bootstrap import check_numbers, check_seed
from midas_aug.diagnostics.heads import HeadRows
from midas_aug.diagnostics.interventions import observe
from midas_aug.diagnostics.learning import learning_speed, read_log
from midas_aug.diagnostics.outcomes import Outcomes, join
from midas_aug.diagnostics.reading import Predict, Reader, evaluating, progress_bar
from midas_aug.diagnostics.removal import Removal, check_removal
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.diagnostics.scores import LEARNED_AT
from midas_aug.diagnostics.target_outcomes import TargetOutcomes, join_targets, observe_target
from midas_aug.diagnostics.target_scores import metric_of
from midas_aug.errors import MidasAugError
from midas_aug.targets import ClassIndex, Distribution, Target, resolve_target

__all__ = ["diagnose"]

Model: TypeAlias = Predict | tuple[Predict, Predict]


def diagnose(
    model: Model,
    loader: Iterable[Any],
    modalities: Sequence[Hashable] | Mapping[Any, Hashable | Sequence[Hashable]],
    *,
    encode: Predict | None = None,
    num_classes: int | None = None,
    target: Target | None = None,
    present: Hashable | Callable[[Any], Any] | None = None,
    label: Hashable | Callable[[Any], Any] = "label",
    unimodal: Predict | None = None,
    training: Iterable[Any] | Mapping[Any, Any] | None = None,
    log: Any = None,
    removal: Removal = "mean",
    draws: int = 5,
    resamples: int = 1000,
    seed: int = 0,
    name: str = "model",
    device: torch.device | str | None = None,
    progress: bool | None = None,
) -> ModalityReport:
    """Show how a trained classifier uses its modalities, on held-out rows.

    At *feature level* (``model`` is a pair) the encoders run once per batch, all features are kept,
    and partners come from the whole set. At *input level* (``model`` is one callable) modalities
    are swapped and removed in the batches themselves: partners come from the same batch, so its
    classes have to be mixed, and the model runs about 1 + 2·M·draws + 2^M − 1 times on each batch.
    Nothing is differentiated; modules (and the owners of bound methods) are in eval mode meanwhile.

    Args:
        model: ``callable(batch) -> logits (N, C)``, or ``(encode, fuse)`` with ``encode(batch) ->
            features by modality`` and ``fuse(features) -> logits (N, C)``. Of a Hugging Face
            ``ModelOutput`` or a mapping ``logits`` are read, of a tuple its one array of that
            shape.
        loader: Batches of tensors, in any structure; pass one that does not shuffle to compare
            reports. Rows with a negative label do not count.
        modalities: Two or more keys, of the batch at input level, of the features at feature
            level; or a mapping from names to a key or a list of keys that move together, as in
            ``{"image": "pixel_values", "text": ["input_ids", "attention_mask"]}``.
        encode: ``callable(batch) -> features by modality``; ``model`` is then the fusion alone, as
            in the pair.
        num_classes: Number of classes C, to check the logits against; None takes theirs.
        target: What a label is, where it is no class index: one of `midas_aug.targets`. A
            ``Distribution`` is diagnosed by its most probable class, and has a cross-entropy; a
            ``MultiLabel`` is scored by macro F1, a ``Continuous`` by R², with fewer measures.
        present: Where rows may lack modalities: key of the mask, or ``callable(batch) -> mask``, as
            in `MisalignAugment`. Rows that lack one are left out, and counted.
        label: Key of the labels in the batch, or ``callable(batch) -> labels``.
        unimodal: Each modality's own classifier, ``callable -> {modality: logits (N, C)}`` of the
            features (feature level) or the batch (input level). It tells ignored modalities from
            those without a signal, and is needed for head accuracy, calibration and shares.
        training: A loader of training batches, or a mapping with the training rows of every
            modality: where the means for ``removal="mean"`` come from. None takes the diagnosed
            rows; rows that are not finite are refused. A loader whose batches hold labels also
            tells what the ``unimodal`` classifiers know of training rows: whether a modality is
            memorised.
        log: The `TrainingLog` of the training, or its ``to_dict()``: how early each modality was
            learned.
        removal: What stands in for a removed modality: ``"zero"``, ``"mean"`` or ``"permute"``
            (another row's). SMV's and the paper's numbers are with zeros at feature level.
        draws: Number of draws of partners and permutations to average over.
        resamples: Number of bootstrap samples of the rows, for 95 % intervals.
        seed: Seed for partners, permutations and the bootstrap.
        name: What tables and figures call the model.
        device: Where to move the batches; None leaves them where they are.
        progress: Show a progress bar (with ``rich``); None shows it on a terminal.

    Returns:
        A `ModalityReport`: print it, or see ``scores``, ``findings``, ``to_dict()``, ``plot()``
        and ``compare(other)``.

    Raises:
        MidasAugError: An argument, a batch or what the model returns does not fit, logits are NaN,
            or there are no two classes to mix.

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
    named = as_modalities(modalities)
    check_removal(removal)
    check_numbers(draws=draws, resamples=resamples)
    check_seed(seed)
    if not isinstance(loader, Iterable):
        raise MidasAugError(
            f"expected loader to be an iterable of batches, got {type(loader).__name__}; pass a "
            "DataLoader, or a list of batches"
        )
    encode, fuse = _parts(model, encode)
    functions = [function for function in (encode, fuse, unimodal) if function is not None]
    names = [modality.name for modality in named]
    speeds = {} if log is None else _speeds(log, names)
    head_rows, training_rows = HeadRows(names, seed=seed), HeadRows(names, seed=seed)
    if isinstance(target, ClassIndex):
        num_classes, target = target.num_classes, None
    observed = _observer(
        target,
        num_classes,
        removal=removal,
        draws=draws,
        generator=torch.Generator().manual_seed(seed),
        head_rows=head_rows,
    )
    with torch.no_grad(), evaluating(functions), progress_bar(progress) as watch:
        reader, means = Reader(named, label, device, watch, target, present), None
        data: Mapping[Any, Any] | Iterator[Any] | None = None
        if isinstance(training, Mapping):
            data = training
        elif training is not None:
            data = reader.training_data(training, encode, unimodal, training_rows)
        if removal == "mean" and (training is not None or encode is None):
            means = reader.means(data, loader)
        elif isinstance(data, Iterator) and unimodal is not None:
            for _ in data:  # for the heads alone
                pass
        if encode is not None:
            blocks = iter([reader.encoded(loader, encode, fuse, unimodal)])
        else:
            blocks = reader.batches(loader, fuse, unimodal)
        parts = [observed(block, means=means) for block in blocks if len(block.labels) > 0]
    joined = _joined(parts) if parts else None
    if joined is None or len(joined.labels) == 0:
        raise MidasAugError(
            "expected at least one row with a label of 0 or more, got none; check the loader and "
            "the label key"
        )
    joined.head_rows = head_rows if head_rows.n_rows else None
    joined.training_rows = training_rows if training_rows.n_rows else None
    joined.constants = speeds
    settings = {
        "level": "input" if encode is None else "feature",
        "removal": _removal_text(removal, training),
        "partners": "from the batch" if encode is None else "from all rows",
        "draws": draws,
        **({} if present is None else {"incomplete_rows": reader.incomplete}),
    }
    report = joined.report(name, settings, resamples=resamples, seed=seed)
    if not any(column.any() for column in joined.mixed.anchored.values()):
        raise MidasAugError(
            f"expected batches with rows of two classes or more, got {len(parts)} of one class "
            "each; partners come from the same batch, so shuffle the rows (with a fixed seed), "
            "make the batches larger, or pass a pair (encode, fuse), whose partners come from all "
            "rows"
        )
    return report


def _observer(
    target: Target | None, num_classes: int | None, **options: Any
) -> Callable[..., Outcomes | TargetOutcomes]:
    """What looks at a block: by classes, or by the score of the target."""
    if target is None:
        return partial(observe, num_classes=num_classes, **options)
    target = resolve_target(num_classes, target)
    if isinstance(target, Distribution):
        return partial(observe, num_classes=target.num_classes, target=target, **options)
    metric_of(target)  # complain before the work
    return partial(observe_target, target=target, **options)


def _joined(parts: Sequence[Outcomes | TargetOutcomes]) -> Outcomes | TargetOutcomes:
    of_classes = [part for part in parts if isinstance(part, Outcomes)]
    if of_classes:
        return join(of_classes)
    return join_targets([part for part in parts if isinstance(part, TargetOutcomes)])


def _parts(model: Any, encode: Predict | None) -> tuple[Predict | None, Predict]:
    if encode is None and isinstance(model, tuple | list) and len(model) == 2:
        encode, model = model
    if callable(model) and (encode is None or callable(encode)):
        return encode, model
    got = type(model).__name__ if encode is None else f"encode={encode!r} and {model!r}"
    raise MidasAugError(
        f"expected model as a callable(batch) -> logits or a pair (encode, fuse) of callables, got "
        f"{got}; encode takes a batch and gives features by modality, fuse takes these and gives "
        "logits"
    )


def _speeds(log: Any, names: Sequence[str]) -> dict[str, float]:
    """How early each modality was learned, as far as the log has the confidence of its head."""
    found = learning_speed(log)
    logged = [str(name) for name in read_log(log)["modalities"]]
    if not set(names) & set(logged):
        raise MidasAugError(
            f"expected a log of the modalities {list(names)!r}, got one of {logged!r}; pass the "
            "TrainingLog of this model"
        )
    return {LEARNED_AT.key(name): found[name] for name in names if name in found}


def _removal_text(removal: str, training: Any) -> str:
    if removal == "mean":
        return f"mean of the {'diagnosed' if training is None else 'training'} rows"
    return {"zero": "zeros", "permute": "other rows' values"}[removal]
