"""A log that the loss tells its steps to."""

import copy
import io

import pytest
import torch
from torch import nn

from midas_aug import MidasAugError, MidasLoss, MisalignAugment
from midas_aug.diagnostics import TrainingLog
from midas_aug.integrations.logs import attach_log, check_log, detach_log, end_epoch, the_loss

CLASSES, ROWS = 4, 8


def step(seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    augment = MisalignAugment(("a", "b"), CLASSES, seed=seed)
    labels = torch.arange(ROWS) % CLASSES
    data = {m: torch.randn(ROWS, 3, generator=generator) for m in ("a", "b")}
    unimodal = {
        m: torch.randn(ROWS, CLASSES, generator=generator, requires_grad=True) for m in ("a", "b")
    }
    out = augment(data, labels, unimodal_logits=unimodal)
    logits = torch.randn(3 * ROWS, CLASSES, generator=generator, requires_grad=True)
    return logits, out, unimodal


@pytest.mark.parametrize("name", ["__call__", "compute"])
def test_what_is_logged_is_what_a_loop_would_log_by_hand(name):
    ours, theirs = MidasLoss(2, warmup_steps=1), MidasLoss(2, warmup_steps=1)
    log, by_hand = TrainingLog(("a", "b")), TrainingLog(("a", "b"))
    attach_log(ours, log)
    for seed in range(3):
        logits, out, unimodal = step(seed)
        found = getattr(ours, name)(logits, out, unimodal)
        terms = theirs.compute(logits, out, unimodal)
        by_hand.update(out, logits=logits, terms=terms, criterion=theirs)
        total = found if name == "__call__" else found.total
        assert torch.equal(total, terms.total)
        slopes = [torch.autograd.grad(loss, unimodal["a"])[0] for loss in (total, terms.total)]
        assert torch.equal(*slopes)
    assert log.end_epoch(0) == by_hand.end_epoch(0)
    assert log.histograms == by_hand.histograms
    assert torch.equal(ours.alpha, theirs.alpha)


def test_the_loss_is_what_it_was_up_to_rounding():
    plain, logged = MidasLoss(2), MidasLoss(2)
    attach_log(logged, TrainingLog(("a", "b")))
    for seed in range(3):
        given = step(seed)
        torch.testing.assert_close(logged(*given), plain(*given))
        assert torch.equal(logged.alpha, plain.alpha)


def test_in_eval_mode_and_after_detach_nothing_is_logged():
    criterion, log = MidasLoss(2), TrainingLog(("a", "b"))
    attach_log(criterion, log)
    criterion.eval()(*step(0))
    detach_log(criterion)
    criterion.train()(*step(1))
    assert log.end_epoch(0) == {"epoch": 0}
    detach_log(criterion)  # twice is fine


def test_attached_twice_a_step_counts_once():
    criterion, log = MidasLoss(2), TrainingLog(("a", "b"))
    attach_log(criterion, log)
    attach_log(criterion, log)
    criterion(*step(0))
    assert sum(log.end_epoch(0) and log.histograms[0]["share.a"]) == 2 * ROWS


def test_a_copy_has_a_loss_of_its_own():
    criterion = MidasLoss(2)
    attach_log(criterion, TrainingLog(("a", "b")))
    other = copy.deepcopy(criterion)
    before = criterion.alpha.clone()
    found = []
    for seed in range(3):
        other(*step(seed))
        found.append(other.alpha.clone())
    assert torch.equal(criterion.alpha, before)
    assert not all(torch.equal(alpha, before) for alpha in found)
    buffer = io.BytesIO()
    torch.save(nn.ModuleDict({"criterion": criterion}), buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)["criterion"]
    loaded(*step(0))
    assert torch.equal(criterion.alpha, before)


def test_scores_get_names_for_other_logs():
    log = TrainingLog(("a", "b"))
    criterion = MidasLoss(2)
    attach_log(criterion, log)
    criterion(*step(0))
    scores = end_epoch(log, 3)
    assert scores["midas/alpha.a"] == log.records[0]["alpha.a"]
    assert log.records[0]["epoch"] == 3
    assert all(name.startswith("midas/") for name in scores)


def test_one_loss_is_logged():
    assert isinstance(the_loss(nn.Sequential(MidasLoss(2))), MidasLoss)
    with pytest.raises(MidasAugError, match=r"expected one MidasLoss .* got 2"):
        the_loss(nn.Sequential(MidasLoss(2), MidasLoss(2)))
    with pytest.raises(MidasAugError, match="found none"):
        the_loss(nn.Sequential())


@pytest.mark.parametrize("log", [True, False, {}, TrainingLog, "log"])
def test_what_is_no_log_is_refused(log):
    for call in (check_log, lambda log: attach_log(MidasLoss(2), log)):
        with pytest.raises(MidasAugError, match=r"log to be a TrainingLog or None, got .*built"):
            call(log)
    assert check_log(None) is None
