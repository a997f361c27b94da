"""What the package makes of a batch of the soak, against the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from midas_aug import functional as F
from midas_aug.functional.skill import TEMPERATURES
from tests.helpers import reference
from tests.helpers.soak_batch import (
    LOGIT_READERS,
    Batch,
    build_augment,
    build_criterion,
    multimodal_logits,
    whole_batch,
)
from tests.helpers.strategies import Array, as_numpy

TINY = float(np.finfo(np.float32).tiny)  # smaller confidences count as 0
CLOSE = 2e-5  # means that are this close may be ordered either way by rounding


def mismatches(batch: Batch) -> Iterator[str]:
    """Everything in which the package and the oracle disagree; nothing, if all is well."""
    torch.manual_seed(batch.settings.number)
    np.random.seed(batch.settings.number)  # noqa: NPY002
    augment = build_augment(batch)
    whole = whole_batch(batch)
    before = {key: _copy(value) for key, value in whole.items()}
    out = _augmented(batch, augment, whole)
    plan = F.SwapPlan(*(np.asarray(part) for part in out.plan))
    yield from _plan(batch, plan)
    yield from _other_library(batch, plan)
    yield from _rows(batch, out, plan)
    yield from _labels(batch, augment, out, plan)
    yield from _loss(batch, out, plan)
    for key, value in before.items():
        if not _same(value, whole[key]):
            yield f"the caller's {key} was changed"


def _augmented(batch: Batch, augment: Any, whole: dict[str, Any]) -> Any:
    settings = batch.settings
    logits = batch.logits if settings.provider == "logits" else None
    if settings.provider in LOGIT_READERS and batch.rng.random() < 0.5:
        logits = batch.logits if settings.provider == "logits" else list(batch.logits.values())  # type: ignore[assignment]
    if settings.way == "call":
        return augment(whole, unimodal_logits=logits)
    if settings.way == "replay":
        first = augment(whole, unimodal_logits=logits)
        return augment(whole, unimodal_logits=logits, plan=first.plan)
    drawn = augment.draw(whole, materialize=settings.way == "draw")
    confidence = None if settings.provider == "logits" else augment.confidence
    return drawn.label(confidence, unimodal_logits=logits)


# ---------------------------------------------------------------- draws and rows


def _plan(batch: Batch, plan: F.SwapPlan) -> Iterator[str]:
    """Every row of the plan is one that the swap and the pairing allow."""
    settings, labels = batch.settings, batch.exact_labels
    n_rows, n_modalities = settings.n_rows, settings.n_modalities
    samples = n_modalities * n_rows if settings.swap == "each" else n_rows
    if plan.source.shape != (samples, n_modalities):
        yield f"plan.source has shape {plan.source.shape}"
        return
    labelled = np.flatnonzero(labels >= 0)
    partners: dict[int, int] = {}
    for sample in range(samples):
        anchor, row = int(plan.anchor[sample]), plan.source[sample]
        valid = bool(plan.valid[sample])
        allowed = _allowed_partners(batch, anchor)
        if anchor != sample % n_rows:
            yield f"sample {sample} has the anchor {anchor}"
        if valid != bool(allowed):
            yield f"sample {sample} of row {anchor} is {'' if valid else 'not '}valid"
        if not valid:
            if (row != anchor).any() and settings.pairing != "function":
                yield f"sample {sample} is not valid and has the sources {row.tolist()}"
            continue
        replaced = np.flatnonzero(row != anchor)
        found = {int(row[m]) for m in replaced} or {anchor}
        if settings.swap == "permute":
            distinct = len(set(row.tolist()))
            if settings.pairing in ("uniform", "same class") and (
                not found & allowed or distinct < min(n_modalities, len(labelled))
            ):
                yield f"sample {sample} is dealt {row.tolist()} of {len(labelled)} rows"
            if not found <= set(labelled.tolist()):
                yield f"sample {sample} has an ignored source in {row.tolist()}"
            continue
        if len(replaced) > 1 or not found <= allowed:
            yield f"sample {sample} has the sources {row.tolist()}, allowed are {allowed}"
        if settings.swap == "each":
            block = sample // n_rows
            if len(replaced) and replaced[0] != block:
                yield f"sample {sample} of block {block} replaces modality {replaced[0]}"
            partner = found.pop()
            if partners.setdefault(anchor, partner) != partner:
                yield f"row {anchor} has another partner in block {block}"
    shuffled = settings.pairing == "permutation" and settings.swap == "each"
    if shuffled and sorted(partners.values()) != labelled.tolist():
        yield f"{partners} is no permutation of the rows with a label"


def _other_library(batch: Batch, plan: F.SwapPlan) -> Iterator[str]:
    """A seed draws the same for tensors and for arrays."""
    settings = batch.settings
    if not settings.seeded or settings.pairing == "function":
        return
    other = "numpy" if settings.library == "torch" else "torch"
    twin = replace(
        batch, settings=replace(settings, library=other, provider="uniform", hardness=None)
    )
    labels: Any = np.array(batch.exact_labels)
    labels = torch.from_numpy(labels) if other == "torch" else labels
    drawn = build_augment(twin).draw(dict.fromkeys(batch.names, labels), labels)
    if not np.array_equal(np.asarray(drawn.plan.source), plan.source):
        yield f"the seed draws something else for {other}"


def _allowed_partners(batch: Batch, row: int) -> set[int]:
    labels, n_rows = batch.exact_labels, batch.settings.n_rows
    if labels[row] < 0:
        return set()
    if batch.settings.pairing == "uniform":
        return reference.possible_partners(labels)[row]
    if batch.settings.pairing == "permutation":
        return {other for other in range(n_rows) if labels[other] >= 0}
    if batch.settings.pairing == "same class":
        return {other for other in range(n_rows) if labels[other] == labels[row]} - {row}
    other = n_rows - 1 - row
    return {other} if labels[other] >= 0 else set()


def _rows(batch: Batch, out: Any, plan: F.SwapPlan) -> Iterator[str]:
    """The data are those rows, and what is no modality follows the anchor."""
    settings = batch.settings
    own = np.arange(settings.n_rows)
    source = np.concatenate([np.repeat(own[:, None], settings.n_modalities, axis=1), plan.source])
    anchor = np.concatenate([own, plan.anchor])
    if not np.array_equal(np.asarray(out.source), source):
        yield "out.source is not the aligned rows and the plan"
    for m, name in enumerate(batch.names):
        gathered = settings.way == "gather"
        found = out.gather(name, batch.features[name]) if gathered else out[name]
        if not np.array_equal(as_numpy(found), batch.exact_features[m][source[:, m]], True):
            yield f"the rows of {name} are not those of the plan"
    if settings.way != "gather" and out["id"] != [f"row {row}" for row in anchor]:
        yield "what is no modality does not follow the anchor"
    if not np.array_equal(np.asarray(out.source_labels), batch.exact_labels[source]):
        yield "out.source_labels are not the labels of the sources"


# ---------------------------------------------------------------- labels


def _labels(batch: Batch, augment: Any, out: Any, plan: F.SwapPlan) -> Iterator[str]:
    """Confidences, shares, targets and hard-sample weights (Eq. 2, 3 and 8)."""
    settings, labels = batch.settings, batch.exact_labels
    n_rows, counted = settings.n_rows, batch.exact_labels >= 0
    confidence = _raw(out)
    wanted = _confidence(batch, augment)
    rtol = 1e-5 + 1e-6 * _largest(batch)
    yield from _far("confidence", confidence[counted], wanted[counted], rtol, TINY)
    if settings.provider == "logits":
        logs = [reference.log_confidence(each, labels) for each in batch.exact_logits]
        stacked = np.stack(logs, axis=1)
        shares = reference.shares_of_logarithms(stacked, plan.source)
    elif settings.provider == "SkillConfidence":
        shares = reference.shares_by_source(confidence, plan.source)
    else:
        shares = reference.label_shares(confidence, plan.source)
    found = as_numpy(out.shares)
    aligned = np.full((n_rows, settings.n_modalities), 1 / settings.n_modalities)
    yield from _far("shares of aligned rows", found[:n_rows], aligned)
    yield from _far("shares", found[n_rows:][plan.valid], shares[plan.valid], rtol)
    if not np.isfinite(found).all():
        yield "a share is not finite"

    sources = np.asarray(out.source_labels)
    targets = reference.soft_targets(sources, found, settings.n_classes)
    targets[(sources < 0).any(axis=1)] = 1 / settings.n_classes
    yield from _far("targets", as_numpy(out.targets), targets)
    yield from _far(
        "folded", as_numpy(out.folded_targets()), targets * as_numpy(out.weights)[:, None]
    )

    weights = _hard_weights(batch, plan)
    if n_rows == 0:
        pass  # nothing to weigh
    elif weights is None:
        if out.hard_weights is not None:
            yield "there are hard-sample weights that nobody asked for"
    else:
        hard = as_numpy(out.hard_weights)
        yield from _far("hard-sample weights", hard[plan.valid], weights[plan.valid], 1e-5, 1e-5)
    if (
        not np.isfinite(as_numpy(out.weights)).all()
        or as_numpy(out.weights)[~np.asarray(out.valid)].any()
    ):
        yield "a weight is not finite, or a row that does not count has one"


def _raw(out: Any) -> Array:
    """The confidences of a batch; an empty one is not labelled by a call."""
    if len(out.labels) == 0:
        return np.zeros((0, len(out.modalities)))
    return as_numpy(out.confidence)


def _confidence(batch: Batch, augment: Any) -> Array:
    settings, labels = batch.settings, batch.exact_labels
    shape = settings.n_rows, settings.n_modalities
    if settings.provider == "uniform":
        return np.ones(shape)
    if settings.provider in ("function", "TableConfidence"):
        return np.asarray(batch.scores)
    if settings.provider == "PrototypeConfidence":
        return reference.prototype_confidence(
            batch.updates,
            [exact.astype(np.float32).astype(np.float64) for exact in batch.exact_features],
            labels,
            settings.n_classes,
            settings.temperatures[0],
            batch.momentum,
        )
    if settings.provider == "SkillConfidence":
        skill = batch.scores if batch.scores is not None else _skill(batch)
        return np.broadcast_to(skill + augment.confidence.eps, shape)
    logits, temperatures = batch.exact_logits, settings.temperatures
    if settings.provider in ("HeadConfidence", "FrozenConfidence"):
        with torch.no_grad():
            given = augment.confidence.unimodal_logits(batch.features)
        logits = [as_numpy(given[name]) for name in batch.names]
    if settings.provider not in ("LogitConfidence", "CalibratedConfidence"):
        temperatures = [1.0] * settings.n_modalities
    columns = [
        reference.true_class_confidence(each, labels, temperature)
        for each, temperature in zip(logits, temperatures, strict=True)
    ]
    return np.stack(columns, axis=1)


def _skill(batch: Batch) -> Array:
    """A moving average of the measured skills, from 1."""
    skill = np.ones(batch.settings.n_modalities)
    measured = False
    for logits, labels in batch.updates:
        if not (labels >= 0).any():
            continue
        found = [
            reference.skill_score(each, labels, TEMPERATURES, batch.class_counts) for each in logits
        ]
        skill = np.array(found) if not measured else 0.75 * skill + 0.25 * np.array(found)
        measured = True
    return skill


def _hard_weights(batch: Batch, plan: F.SwapPlan) -> Array | None:
    if batch.settings.hardness is None:
        return None
    if batch.settings.hardness == "function":
        return np.asarray(batch.sample_weights)
    return reference.cosine_hardness(batch.exact_features, plan.source, plan.anchor)


# ---------------------------------------------------------------- the loss and α


def _loss(batch: Batch, out: Any, plan: F.SwapPlan) -> Iterator[str]:
    """The loss with its parts and gradients, and the step of α (Eq. 5-7, 9-11)."""
    settings, n_rows = batch.settings, batch.settings.n_rows
    criterion = build_criterion(batch)
    logits = multimodal_logits(batch, out)
    exact = logits.detach().double().numpy()
    heads = [
        torch.from_numpy(each).to(logits.dtype).requires_grad_() for each in batch.exact_logits
    ]
    confidence, shares = _raw(out), as_numpy(out.shares)[n_rows:]
    hard = as_numpy(out.hard_weights) if out.hard_weights is not None else np.ones(len(plan.anchor))
    alpha = _coefficients(batch, confidence, plan)
    terms = criterion.compute(logits, out, heads)
    wanted = reference.eq11_loss(
        exact[:n_rows],
        exact[n_rows:],
        [as_numpy(head) for head in heads],
        batch.exact_labels,
        plan.source,
        plan.anchor,
        plan.valid,
        confidence,
        hard,
        np.ones(settings.n_modalities) if alpha is None else alpha,
        settings.misaligned_weight,
        settings.unimodal_weight,
        shares,
    )
    wanted["misaligned"] *= settings.misaligned_weight
    wanted["unimodal"] *= settings.unimodal_weight > 0
    atol = 1e-5 * (1 + _largest(batch))
    for name, value in terms._asdict().items():
        if alpha is not None or name in ("aligned", "unimodal"):
            yield from _far(
                f"the {name} loss", as_numpy(value), np.float64(wanted[name]), 1e-4, atol
            )

    if terms.total.requires_grad:
        torch.autograd.backward(terms.total)
    dead = ~torch.as_tensor(np.asarray(out.valid))
    ignored = torch.from_numpy(batch.exact_labels < 0)
    for name, leaf, rows in [("logits", logits, dead)] + [
        ("heads", head, ignored) for head in heads
    ]:
        if leaf.grad is not None and not (leaf.grad.isfinite().all() and not leaf.grad[rows].any()):
            yield f"a gradient of the {name} is not finite, or a row that does not count has one"

    if criterion.weak_modality is not None:
        allowed = _steps(batch, confidence, shares, exact[n_rows:], plan)
        found = as_numpy(criterion.weak_modality.alpha)
        if not any(np.allclose(found, each, rtol=1e-6, atol=1e-6) for each in allowed):
            yield f"alpha is {found.tolist()}, allowed are {[each.tolist() for each in allowed]}"
        yield from _folded(batch, criterion, out, exact)
    accuracy = F.misaligned_accuracy(
        logits.detach()[n_rows:],
        torch.from_numpy(batch.exact_labels[plan.source]),
        valid=torch.from_numpy(plan.valid),
    )
    best = reference.misaligned_accuracy(
        exact[n_rows:], batch.exact_labels[plan.source], plan.valid
    )
    yield from _far("misaligned accuracy", as_numpy(accuracy), np.float64(best))


def _folded(batch: Batch, criterion: Any, out: Any, exact: Array) -> Iterator[str]:
    """The targets and weights of a stock loss give the number of the criterion."""
    if not len(exact):
        return
    criterion.eval()
    clean = torch.from_numpy(np.nan_to_num(exact, posinf=0.0)).float()
    terms = criterion.compute(clean, out)
    targets, weights = (torch.as_tensor(part) for part in criterion.weak_modality.fold(out))
    stock = (cross_entropy(clean, targets, reduction="none") * weights).mean()
    total = as_numpy(terms.aligned + terms.misaligned)
    yield from _far("the folded loss", as_numpy(stock), total, 1e-4, 1e-5 * (1 + _largest(batch)))


def _coefficients(batch: Batch, confidence: Array, plan: F.SwapPlan) -> Array | None:
    """α of this batch's loss; None where rounding decides."""
    alpha = np.asarray(batch.alpha, dtype=np.float64)
    if batch.settings.rule != "ratio":
        return alpha
    sums = _chosen(confidence, plan).sum(axis=0)
    if not sums.sum() > 0:
        return np.ones(2)
    if sums[0] != sums[1] and abs(sums[0] - sums[1]) < CLOSE * sums.sum():
        return None
    return np.where(np.arange(2) == sums.argmin(), alpha, 1.0)


def _chosen(confidence: Array, plan: F.SwapPlan) -> Array:
    return np.asarray(confidence[plan.source, np.arange(confidence.shape[1])][plan.valid])


def _steps(
    batch: Batch, confidence: Array, shares: Array, logits: Array, plan: F.SwapPlan
) -> list[Array]:
    """The α that may come next: one, or several where rounding decides."""
    settings, labels = batch.settings, batch.exact_labels[plan.source]
    alpha = np.asarray(batch.alpha, dtype=np.float64)
    if not plan.valid.any():
        return [alpha]
    used: dict[str, Any] = {"step_size": settings.step_size, "max_alpha": settings.max_alpha}
    clean = np.nan_to_num(logits, posinf=0.0)
    if settings.rule == "ratio":
        raw = _chosen(confidence, plan)
        if not raw.sum(axis=0).all():
            return [alpha]  # without a finite ratio α stays
        shifts = (1 - CLOSE, 1.0, 1 + CLOSE)
        vanished = _vanishes(clean, labels, plan.valid, settings.n_rows)
        return [alpha] * vanished + [
            np.full(
                2,
                reference.ratio_weak_step(
                    alpha[0],
                    confidence * [shift, 1],
                    plan.source,
                    clean,
                    labels,
                    settings.n_rows,
                    settings.step_size,
                    settings.max_alpha,
                    plan.valid,
                ),
            )
            for shift in shifts
        ]
    means = shares[plan.valid].mean(axis=0)
    fused = reference.fusion_shares(clean, labels)[plan.valid].mean(axis=0)
    close = np.flatnonzero(means - means.min() < CLOSE)
    possible = []
    for weak in close:
        # The oracle picks the lowest mean: nudge the one that rounding might have picked.
        nudged = shares.copy()
        if len(close) > 1:
            nudged[:, weak] -= 2 * CLOSE
        possible.append(
            reference.weak_modality_step(alpha, nudged, clean, labels, plan.valid, **used)
        )
        if abs(means[weak] - fused[weak]) < 4 * CLOSE:
            possible += [_with(alpha, int(weak), sign, settings) for sign in (-1, 0, 1)]
    return possible


def _vanishes(logits: Array, labels: Array, valid: Array, n_rows: int) -> bool:
    """Whether the probabilities of a modality's labels are 0 in float32 in a whole block."""
    logs = np.zeros(labels.shape)
    for sample in np.flatnonzero(valid):
        logs[sample] = reference.log_probabilities(logits[sample])[labels[sample]]
    blocks = [logs[block][valid[block]] for block in (slice(0, n_rows), slice(n_rows, None))]
    return any(len(rows) and (rows.max(axis=0) < -80).any() for rows in blocks)


def _with(alpha: Array, weak: int, sign: int, settings: Any) -> Array:
    stepped = np.ones(len(alpha))
    high = np.inf if settings.max_alpha is None else settings.max_alpha
    stepped[weak] = max(1.0, min(alpha[weak] + sign * settings.step_size, high))
    return stepped


# ---------------------------------------------------------------- comparing


def _largest(batch: Batch) -> float:
    """The largest logit by its temperature: rounding errors grow with it."""
    finite = [each[np.isfinite(each)] for each in batch.exact_logits]
    coldest = min(batch.settings.temperatures, default=1.0)
    largest = max((float(np.abs(each).max(initial=0.0)) for each in finite), default=0.0)
    return max(largest, 1.0, 5 * batch.settings.scale) / min(coldest, 1.0)


def _far(
    what: str, found: Array, wanted: Array, rtol: float = 1e-5, atol: float = 1e-6
) -> Iterator[str]:
    if np.shape(found) != np.shape(wanted):
        yield f"{what}: shape {np.shape(found)}, expected {np.shape(wanted)}"
    elif not np.allclose(found, wanted, rtol=rtol, atol=atol):
        gap = np.abs(np.asarray(found) - wanted)
        place = np.unravel_index(np.argmax(np.nan_to_num(gap, nan=np.inf)), gap.shape)
        here, there = (float(np.asarray(each)[place]) for each in (found, wanted))
        yield f"{what}: {here!r} at {tuple(map(int, place))}, expected {there!r}"


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value.copy()


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return bool(one == other)
    return bool(np.array_equal(as_numpy(one), as_numpy(other), as_numpy(one).dtype.kind == "f"))
