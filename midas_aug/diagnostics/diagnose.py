"""One call that shows how a model uses its modalities."""

import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch

from midas_aug._ranks import several_ranks
from midas_aug.diagnostics.arguments import Model
from midas_aug.diagnostics.examination import Examination, Keys, examined
from midas_aug.diagnostics.ranks import AllRanks, OneProcess
from midas_aug.diagnostics.reading import Predict
from midas_aug.diagnostics.removal import Removal
from midas_aug.diagnostics.report import ModalityReport
from midas_aug.targets import Target

__all__ = ["diagnose", "diagnose_across_ranks"]


def diagnose(
    model: Model,
    loader: Iterable[Any],
    modalities: Keys,
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
    For one report of the rows of several ranks see `diagnose_across_ranks`.

    Args:
        model: ``callable(batch) -> logits (N, C)``, or ``(encode, fuse)`` with ``encode(batch) ->
            features by modality`` and ``fuse(features) -> logits (N, C)``. Of a Hugging Face
            ``ModelOutput`` or a mapping ``logits`` are read, of a tuple its one array of that
            shape.
        loader: Batches of tensors, in any structure (of NumPy arrays with ``device``, which makes
            tensors of them); pass one that does not shuffle to compare reports. Rows with a
            negative label do not count.
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
    options = {
        "encode": encode,
        "num_classes": num_classes,
        "target": target,
        "present": present,
        "label": label,
        "unimodal": unimodal,
        "training": training,
        "log": log,
        "removal": removal,
        "draws": draws,
        "resamples": resamples,
        "seed": seed,
        "name": name,
        "device": device,
        "progress": progress,
    }
    return examined(OneProcess(), lambda: Examination(model, loader, modalities, rank=0, **options))


def diagnose_across_ranks(
    model: Model, loader: Iterable[Any], modalities: Keys, **options: Any
) -> ModalityReport:
    """`diagnose` the rows of all ranks of a distributed run; every rank gets the same report.

    Every rank has to call it. Each encodes (or, at input level, scores) the rows of its own loader;
    the first one gathers what came of it, batch by batch, and makes the report. Rows are put in the
    order in which a sampler deals them out: row i of a data set went to rank i modulo the number of
    ranks. At feature level the report, its intervals included, is then that of one process that
    reads the data set in order. At input level partners come from the same batch, so what is drawn
    differs with the batches: misaligned and permuted rows, not the rest.

    Ranks may have different numbers of rows, or none. An error on one rank is an error on all.

    A ``DistributedSampler`` repeats rows until all ranks have as many, and these would count twice:
    take ``Subset(dataset, range(rank, len(dataset), world_size))`` in its place. Modules inside
    ``DistributedDataParallel`` are taken out of it where it is passed as it is; a function that
    calls one has to call its ``.module``. A model whose weights are spread over ranks (FSDP) needs
    all of them in each forward pass: gather the weights first.

    Args:
        model: As in `diagnose`.
        loader: This rank's batches.
        modalities: As in `diagnose`.
        options: All others of `diagnose`, the same on every rank. ``training`` holds this rank's
            rows: together they are those of one process.

    Raises:
        MidasAugError: See `diagnose`; or another rank has raised, which the message names.

    Example:
        >>> import torch
        >>> from midas_aug.diagnostics import diagnose_across_ranks
        >>> inputs = torch.nn.functional.one_hot(torch.arange(40) % 4).float()
        >>> batch = {"audio": inputs, "video": inputs, "label": torch.arange(40) % 4}
        >>> hears_only = lambda batch: 9 * batch["audio"] + batch["video"]
        >>> report = diagnose_across_ranks(hears_only, [batch], ("audio", "video"))
        >>> report.scores["accuracy"].value  # without a process group there is one rank
        1.0
    """
    if not several_ranks():
        return diagnose(model, loader, modalities, **options)
    ranks = AllRanks()

    def begin() -> Examination:
        asked = inspect.signature(diagnose).bind(model, loader, modalities, **options)
        asked.apply_defaults()
        return Examination(rank=ranks.rank, **asked.arguments)

    return examined(ranks, begin)
