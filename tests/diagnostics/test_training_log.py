"""`TrainingLog`: values against slow loops, no sync, resume, adapters, ranks."""

import io
import json
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

from midas_aug import MidasAugError, MidasLoss, MisalignAugment, WeakModalityWeight
from midas_aug.diagnostics import TrainingLog, draw_curves, draw_shares, learning_speed
from midas_aug.integrations.logs import attach_log
from midas_aug.targets import Continuous, Distribution, MultiLabel
from tests.helpers.operators import OperatorCount

NAMES = ("audio", "video", "text")
CLASSES = 4


class Steps:
    """Batches and logits from seeds alone, and one criterion that learns nothing but α."""

    def __init__(self, names=NAMES, *, rows=12, warmup=0, device="cpu", **options):
        self.names, self.rows, self.device = names, rows, device
        self.criterion = MidasLoss(
            len(names),
            warmup_epochs=warmup,
            weak_modality=WeakModalityWeight(len(names), step_size=0.3),
        ).to(device)
        self.augment = MisalignAugment(names, CLASSES, **options)

    def take(self, step):
        data = torch.Generator().manual_seed(step)

        def draw(*shape):
            return torch.randn(*shape, generator=data).to(self.device)

        labels = torch.randint(-1, CLASSES, (self.rows,), generator=data).to(self.device)
        features = {name: draw(self.rows, 5) for name in self.names}
        unimodal = {name: draw(self.rows, CLASSES) for name in self.names}
        if step % 3 == 0:  # somebody has collapsed
            unimodal = {name: 0.1 * logits for name, logits in unimodal.items()}
        out = self.augment(features, labels, unimodal_logits=unimodal, generator=data)
        logits = draw(len(out.source), CLASSES)
        terms = self.criterion.compute(logits, out, unimodal)
        return out, {"logits": logits, "terms": terms, "criterion": self.criterion}


def slow_record(names, steps):
    """The scores of an epoch, row by row; ``steps`` holds α of each step besides."""
    values = {}

    def add(name, value):
        values.setdefault(name, []).append(float(value))

    for out, given, alpha, warming_up in steps:
        count = len(out.labels)
        p = given["logits"].double().softmax(dim=1).numpy()
        for term, value in given["terms"]._asdict().items():
            if not warming_up or term in ("total", "unimodal"):
                add(f"loss.{term}", value)
        add("warming_up", warming_up)
        for m, name in enumerate(names):
            add(f"alpha.{name}", alpha[m])
        for i in range(count):
            label = int(out.labels[i])
            if label < 0:
                continue
            if not warming_up:
                add("accuracy", int(p[i].argmax()) == label)
            for m, name in enumerate(names):
                add(f"unimodal.{name}", out.confidence[i, m])
        for s in range(count, len(p)):
            if not out.valid[s]:
                continue
            shares = out.shares[s].double().numpy()
            classes = [int(label) for label in out.source_labels[s]]
            near = [abs(share - 1 / len(names)) <= 0.05 for share in shares]
            add("collapsed", sum(near) / len(near))
            entropy = -sum(share * math.log(share) for share in shares if share)
            add("entropy", entropy / math.log(len(names)))
            if out.hard_weights is not None:
                add("hardness", out.hard_weights[s - count])
            if not warming_up:
                top = set(np.argsort(-p[s])[: len(set(classes))].tolist())
                add("misaligned_accuracy", top == set(classes))
            for m, name in enumerate(names):
                add(f"share.{name}", shares[m])
                if not warming_up:
                    add(f"confidence.{name}", p[s][classes[m]])
                    add(f"credit.{name}", p[s][classes[m]] / sum(p[s][c] for c in classes))
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


@pytest.mark.parametrize("names", [NAMES[:2], NAMES])
@pytest.mark.parametrize("options", [{}, {"swap": "permute"}, {"hardness": None}])
def test_the_means_are_those_of_a_slow_loop(names, options):
    steps, log, seen = Steps(names, warmup=1, **options), TrainingLog(names), []
    for epoch in range(3):
        steps.criterion.set_epoch(epoch)
        kept = []
        for step in range(3 * epoch, 3 * epoch + 3):
            out, given = steps.take(step)
            log.update(out, **given)
            kept.append((out, given, steps.criterion.weak_modality.alpha.tolist(), epoch == 0))
        expected = slow_record(names, kept)
        record = dict(log.end_epoch(epoch))
        assert record.pop("epoch") == epoch
        assert record == pytest.approx(expected, rel=1e-5, abs=1e-6)
        seen.append(expected)
    assert "credit.audio" not in seen[0]  # the fusion head is idle
    assert seen[0]["collapsed"] > 0  # there was something to see
    assert max(record[f"alpha.{name}"] for record in seen for name in names) > 1
    assert ("hardness" in seen[0]) == (options.get("hardness", 0) == 0)


def test_the_histograms_are_numpys():
    steps, log, shares, similarities = Steps(), TrainingLog(NAMES), [], []
    for step in range(3):
        out, given = steps.take(step)
        log.update(out, **given)
        valid = out.valid[out.misaligned]
        shares.append(out.shares[out.misaligned][valid])
        similarities.append(2 * out.hard_weights[valid] - 3)
    log.end_epoch(0)
    histograms = log.to_dict()["histograms"]
    wanted = {f"share.{name}": torch.cat(shares)[:, m].numpy() for m, name in enumerate(NAMES)}
    wanted["similarity"] = torch.cat(similarities).numpy()
    assert histograms.keys() == wanted.keys()
    for name, values in wanted.items():
        edges = histograms[name]["edges"]
        assert histograms[name]["counts"] == [np.histogram(values, edges)[0].tolist()]


def test_a_callables_hardness_beyond_the_range_is_in_the_outermost_bin():
    steps = Steps(hardness=lambda features, plan: torch.linspace(0.0, 9.0, len(plan.anchor)))
    log = TrainingLog(NAMES)
    out, _ = steps.take(0)
    log.update(out)
    log.end_epoch(0)
    counts = log.histograms[0]["similarity"]
    assert sum(counts) == int(out.valid[out.misaligned].sum())
    assert counts[-1] > 5


def test_what_is_not_given_is_not_in_the_record():
    steps, log = Steps(), TrainingLog(NAMES)
    out, given = steps.take(1)
    log.update(out)
    bare = log.end_epoch(0)
    assert {name.split(".")[0] for name in bare} == {
        "epoch", "share", "collapsed", "entropy", "hardness", "unimodal", "warming_up",
    }  # fmt: skip
    log.update(out, logits=given["logits"])
    assert {"credit.text", "accuracy"} <= log.end_epoch(1).keys()
    assert log.end_epoch(2) == {"epoch": 2}  # nothing happened in it
    scores = log.to_dict()["scores"]
    assert scores["accuracy"][0] is None
    assert scores["accuracy"][1] is not None
    assert scores["share.audio"][2] is None


def test_aligned_rows_alone_are_joint_training():
    steps, log = Steps(), TrainingLog(NAMES)
    steps.augment.enabled = False
    out, given = steps.take(1)
    log.update(out, **given)
    record = log.end_epoch(0)
    assert {"accuracy", "loss.aligned", "alpha.audio"} <= record.keys()
    assert not {"share.audio", "credit.audio", "collapsed", "misaligned_accuracy"} & record.keys()


def test_aligned_rows_without_logits_have_next_to_nothing_to_tell():
    steps, log = Steps(), TrainingLog(NAMES)
    steps.augment.enabled = False
    log.update(steps.take(1)[0])
    assert log.end_epoch(0) == {"epoch": 0, "warming_up": 0}
    assert repr(log) == "TrainingLog(('audio', 'video', 'text'), sync=True)"


IDLE = {"accuracy", "misaligned_accuracy", "credit", "confidence", "loss.aligned"}


def kinds_of(record):
    return {name if name.startswith("loss") else name.split(".")[0] for name in record}


@pytest.mark.parametrize("told", ["by hand", "without terms", "by the loss"])
def test_every_step_of_a_warm_up_is_logged_as_one_the_last_too(told):
    steps, log = Steps(), TrainingLog(NAMES)
    steps.criterion = MidasLoss(len(NAMES), warmup_steps=2)
    if told == "by the loss":
        attach_log(steps.criterion, log)
    records = []
    for number in range(4):
        out, given = steps.take(number + 1)
        if told == "without terms":
            del given["terms"]
        if told != "by the loss":
            log.update(out, **given)
        records.append(log.end_epoch(number))
    assert [record["warming_up"] for record in records] == [1, 1, 0, 0]
    trained = IDLE - ({"loss.aligned"} if told == "without terms" else set())
    assert not any(IDLE & kinds_of(record) for record in records[:2])
    assert all(trained <= kinds_of(record) for record in records[2:])


def test_a_loss_knows_of_its_last_pass_also_when_it_is_validated_or_compiled():
    steps = Steps()
    criterion = steps.criterion = MidasLoss(len(NAMES), warmup_steps=2)
    assert criterion.was_warming_up  # so will the first pass
    steps.take(1)
    criterion.eval()
    steps.take(2)
    assert criterion.warming_up
    assert not criterion.was_warming_up
    criterion.train()
    out, given = steps.take(3)
    assert criterion.was_warming_up
    assert not criterion.warming_up
    unimodal = [torch.zeros(steps.rows, CLASSES)] * len(NAMES)
    torch.compile(criterion, fullgraph=True, backend="eager")(given["logits"], out, unimodal)
    assert not criterion.was_warming_up


def labels_of(kind):
    """12 labels, the first of a row to ignore, and log-likelihoods of a row in plain NumPy."""
    data = torch.Generator().manual_seed(0)
    if kind == "multi-label":
        labels = torch.randint(0, 2, (12, CLASSES), generator=data).float()
        labels[0] = -1
        return MultiLabel(CLASSES), labels, CLASSES, multi_label
    if kind == "distribution":
        labels = torch.rand(12, CLASSES, generator=data).softmax(dim=1)
        labels[0] = -1
        return Distribution(CLASSES), labels, CLASSES, distribution
    labels = torch.randn(12, generator=data)
    labels[0] = math.nan
    return Continuous(scale=2.0), labels, 1, continuous


def multi_label(scores, label):
    yes = 1 / (1 + np.exp(-scores))
    return np.log(np.where(label > 0, yes, 1 - yes)).mean()


def distribution(scores, label):
    return (label * (scores - np.log(np.exp(scores).sum()))).sum()


def continuous(scores, label):
    return -0.5 * ((scores[0] - label) / 2.0) ** 2


@pytest.mark.parametrize("kind", ["multi-label", "distribution", "continuous"])
def test_labels_that_are_no_class_indices_have_all_scores_but_accuracies(kind):
    target, labels, width, log_likelihood = labels_of(kind)
    data = torch.Generator().manual_seed(1)
    heads = {name: torch.randn(12, width, generator=data) for name in NAMES}
    features = {name: torch.randn(12, 5, generator=data) for name in NAMES}
    out = MisalignAugment(NAMES, target=target, seed=0)(features, labels, unimodal_logits=heads)
    logits = torch.randn(len(out.source), width, generator=data)
    criterion, log = MidasLoss(len(NAMES)), TrainingLog(NAMES)
    attach_log(criterion, log)
    criterion(logits[:, 0] if kind == "continuous" else logits, out, heads)
    record = log.end_epoch(0)

    counted = [row for row in range(12, len(logits)) if out.valid[row]]
    assert 10 < len(counted) < len(logits) - 12
    credit, confidence, share = [], [], []
    for row in counted:
        of_m = np.exp(
            [
                log_likelihood(logits[row].double().numpy(), labels[source].double().numpy())
                for source in out.source[row]
            ]
        )
        confidence.append(of_m)
        credit.append(of_m / of_m.sum())
        share.append(out.shares[row].numpy())
    for name, rows in (("credit", credit), ("confidence", confidence), ("share", share)):
        found = [record[f"{name}.{m}"] for m in NAMES]
        assert found == pytest.approx(np.mean(rows, axis=0).tolist(), rel=1e-4)
    for m, name in enumerate(NAMES):
        wanted = out.confidence[1:, m].mean()
        assert record[f"unimodal.{name}"] == pytest.approx(float(wanted), rel=1e-4)
        assert record[f"alpha.{name}"] == float(criterion.alpha[m])
    assert kinds_of(record) == {
        "epoch", "share", "credit", "confidence", "collapsed", "entropy", "hardness", "unimodal",
        "alpha", "loss.total", "loss.aligned", "loss.misaligned", "loss.unimodal", "warming_up",
    }  # fmt: skip

    titles = [axes.get_title(loc="left") for axes in draw_curves(log).axes]
    assert any(title.startswith("Losses") for title in titles)
    assert not any(title.startswith("Accuracy") for title in titles)
    draw_shares(log)
    assert learning_speed(log).keys() == set(NAMES)


def test_a_modality_that_is_absent_gets_no_credit_as_in_the_step_of_alpha():
    """All rows lack text, and one lacks audio, whose label the others' credit leaves out."""
    names = (*NAMES, "touch")
    has = torch.ones(12, len(names), dtype=torch.bool)
    has[:, 2] = False
    has[3, 0] = False
    data = torch.Generator().manual_seed(0)
    heads = {name: torch.randn(12, CLASSES, generator=data) for name in names}
    features = {name: torch.randn(12, 5, generator=data) for name in names}
    augment = MisalignAugment(names, CLASSES, seed=0)
    out = augment(features, torch.arange(12) % CLASSES, unimodal_logits=heads, present=has)
    assert out.absent[out.misaligned][out.valid[out.misaligned]].sum(dim=0)[0] > 0
    logits = torch.randn(len(out.source), CLASSES, generator=data)
    log = TrainingLog(names)
    log.update(out, logits=logits)
    record = log.end_epoch(0)
    assert record["share.text"] == record["credit.text"] == 0

    credit = []
    for row in range(12, len(logits)):
        if out.valid[row]:
            p = [math.exp(logits[row, label]) for label in out.source_labels[row]]
            p = [0 if absent else value for value, absent in zip(p, out.absent[row], strict=True)]
            credit.append([value / sum(p) for value in p])
    found = [record[f"credit.{name}"] for name in names]
    assert found == pytest.approx(np.mean(credit, axis=0).tolist(), rel=1e-4)
    audio = out.confidence[has[:, 0], 0].mean()
    assert record["unimodal.audio"] == pytest.approx(float(audio), rel=1e-4)
    assert not {"confidence.text", "unimodal.text"} & record.keys()  # no row to speak of


def test_numpy_batches_are_logged_too():
    rng = np.random.default_rng(0)
    data = {name: rng.normal(size=(6, 3)).astype(np.float32) for name in NAMES}
    out = MisalignAugment(NAMES, CLASSES, confidence="uniform")(data, np.arange(6) % CLASSES)
    log = TrainingLog(NAMES)
    log.update(out)
    record = log.end_epoch(0)
    assert record["collapsed"] == record["entropy"] == pytest.approx(1)


def test_an_overflow_on_a_row_that_does_not_count_stays_out():
    out, given = Steps().take(1)
    logits = given["logits"].clone()
    logits[~out.valid] = math.nan
    log = TrainingLog(NAMES)
    log.update(out, logits=logits)
    assert all(math.isfinite(value) for value in log.end_epoch(0).values())
    assert not out.valid.all()


def test_a_run_that_diverges_has_gaps_in_its_curves_and_is_still_json():
    out, given = Steps().take(1)
    log = TrainingLog(NAMES)
    log.update(out, logits=torch.full_like(given["logits"], math.nan))
    assert math.isnan(log.end_epoch(0)["credit.audio"])
    content = log.to_dict()
    json.dumps(content, allow_nan=False)
    assert content["scores"]["credit.audio"] == [None]
    assert content["scores"]["accuracy"] == content["scores"]["misaligned_accuracy"] == [0]


@pytest.mark.parametrize("warmup", [0, 5])
def test_update_never_waits_for_the_device(warmup):
    """Tensors on the meta device have no values: any look at one raises."""
    steps, log = Steps(warmup=warmup, device="meta"), TrainingLog(NAMES)
    steps.criterion.set_epoch(0)
    for step in (1, 2):
        out, given = steps.take(step)
        with OperatorCount() as counted:
            log.update(out, **given)
        assert counted.waiting == []
        assert counted.operators <= 75


def test_fake_tensors_agree_that_nothing_reads_values():
    steps, log = Steps(), TrainingLog(NAMES)
    with FakeTensorMode(allow_non_fake_inputs=True):
        out, given = steps.take(1)
        log.update(out, **given)


def test_an_epoch_costs_one_sync():
    steps, log = Steps(), TrainingLog(NAMES)
    for step in range(3):
        out, given = steps.take(step)
        log.update(out, **given)
    with OperatorCount() as counted:
        log.end_epoch(0)
    assert counted.operators <= 2  # fetch and clear


def test_update_leaves_the_gradients_alone():
    steps, log = Steps(), TrainingLog(NAMES)
    out, given = steps.take(1)
    logits = given["logits"].clone().requires_grad_()
    criterion = MidasLoss(len(NAMES), unimodal_weight=0)
    terms = criterion.compute(logits, out)
    log.update(out, logits=logits, terms=terms, criterion=criterion)
    terms.total.backward()
    assert logits.grad is not None
    assert not log.state_dict()["totals"].requires_grad


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("stop", [0, 3, 4, 8])
def test_a_resumed_log_has_the_whole_curve(stop):
    def run(log, steps, numbers):
        for step in numbers:
            out, given = steps.take(step)
            log.update(out, **given)
            if step % 4 == 3:
                log.end_epoch(step // 4)

    whole, steps = TrainingLog(NAMES), Steps()
    run(whole, steps, range(12))

    begun, steps = TrainingLog(NAMES), Steps()
    run(begun, steps, range(stop))
    resumed = TrainingLog(NAMES)
    resumed.load_state_dict(through_a_file(begun.state_dict()))
    run(resumed, steps, range(stop, 12))
    assert resumed.to_dict() == whole.to_dict()
    assert len(whole.records) == 3


def test_a_state_is_a_copy():
    steps, log = Steps(), TrainingLog(NAMES)
    out, given = steps.take(1)
    log.update(out, **given)
    state = log.state_dict()
    log.update(out, **given)
    log.end_epoch(0)
    assert state["records"] == []
    assert state["totals"].abs().sum() > 0


def test_a_state_of_other_modalities_is_refused():
    with pytest.raises(MidasAugError, match=r"a log of .*'text'"):
        TrainingLog(NAMES).load_state_dict(TrainingLog(NAMES[:2]).state_dict())


def without(key):
    return lambda state: {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: {}, "got no 'modalities'; pass what"),
        (lambda _: None, "got NoneType; pass what"),
        (without("records"), "got no 'records'"),
        (without("totals"), "got no 'totals'"),
        (lambda s: {**s, "modalities": None}, "got one of None"),
        (lambda s: {**s, "records": None}, "got something else"),
        (lambda s: {**s, "records": []}, "got 0 records and 1 histograms"),
        (lambda s: {**s, "records": [{}]}, "a record without its epoch"),
        (lambda s: {**s, "totals": torch.zeros(3)}, r"got \(3,\); .*state\['totals'\] = None"),
        (lambda s: {**s, "totals": 0}, "got int"),
    ],
)
def test_a_state_that_is_refused_leaves_the_log_as_it_is(change, words):
    steps, other, log = Steps(), TrainingLog(NAMES), TrainingLog(NAMES)
    other.end_epoch(7)
    out, given = steps.take(1)
    log.end_epoch(0)
    log.update(out, **given)
    before = log.state_dict()
    with pytest.raises(MidasAugError, match=words):
        log.load_state_dict(change(other.state_dict()))
    after = log.state_dict()
    assert torch.equal(before.pop("totals"), after.pop("totals"))
    assert before == after
    log.update(out, **given)
    assert log.end_epoch(1)["accuracy"] >= 0


def test_sums_of_another_version_can_be_left_out():
    log, state = TrainingLog(NAMES), TrainingLog(NAMES).state_dict()
    log.load_state_dict({**state, "totals": None})
    assert log.end_epoch(0) == {"epoch": 0}


@pytest.mark.parametrize("epoch", [None, "3", math.nan, math.inf, True])
def test_an_epoch_is_a_finite_number_and_nothing_is_lost(epoch, finished):
    before = finished.state_dict()
    with pytest.raises(MidasAugError, match="epoch as a finite number, got"):
        finished.end_epoch(epoch)
    assert finished.records == before["records"]
    assert finished.end_epoch(np.float64(7.5))["epoch"] == 7.5


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("terms", torch.ones(()), r"LossTerms of criterion.compute\(...\), got Tensor"),
        ("criterion", torch.nn.CrossEntropyLoss(), "the MidasLoss, got CrossEntropyLoss"),
    ],
)
def test_what_is_no_loss_is_refused_and_nothing_is_added(option, value, words):
    steps, log = Steps(), TrainingLog(NAMES)
    out, given = steps.take(1)
    with pytest.raises(MidasAugError, match=words):
        log.update(out, **{**given, option: value})
    assert log.end_epoch(0) == {"epoch": 0}


@pytest.mark.parametrize("names", [None, 2])
def test_modalities_are_a_sequence(names):
    with pytest.raises(MidasAugError, match=r"a sequence of names, got .*augment\.modalities"):
        TrainingLog(names)


def test_a_run_that_was_set_back_writes_its_epochs_anew():
    log = TrainingLog(NAMES)
    for epoch in (0, 1, 2, 1):
        log.end_epoch(epoch)
    assert log.to_dict()["epoch"] == [0, 1]


@pytest.fixture
def finished():
    steps, log = Steps(warmup=1), TrainingLog(NAMES)
    for epoch in range(3):
        steps.criterion.set_epoch(epoch)
        out, given = steps.take(epoch)
        log.update(out, **given)
        log.end_epoch(epoch)
    return log


def test_the_dict_is_json_and_has_every_epoch(finished):
    content = finished.to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["modalities"] == list(NAMES)
    assert content["epoch"] == [0, 1, 2]
    assert {len(column) for column in content["scores"].values()} == {3}
    assert "epoch" not in content["scores"]


def test_write_hands_over_every_score_once(finished):
    rows = []
    finished.write(lambda name, value, epoch: rows.append((name, value, epoch)))
    wanted = {
        (name, value, record["epoch"])
        for record in finished.records
        for name, value in record.items()
        if name != "epoch"
    }
    assert set(rows) == wanted
    assert len(rows) == len(wanted)
    rows.clear()
    finished.write(lambda *row: rows.append(row), start=2)
    assert {epoch for _, _, epoch in rows} == {2}


def test_tensorboard_gets_scalars(finished):
    class Writer:
        def __init__(self):
            self.scalars = {}

        def add_scalar(self, tag, scalar_value, global_step=None):
            self.scalars[tag, global_step] = scalar_value

    writer = Writer()
    finished.to_tensorboard(writer, start=1)
    assert writer.scalars["midas/alpha.text", 2] == finished.records[2]["alpha.text"]
    assert {step for _, step in writer.scalars} == {1, 2}


def test_wandb_gets_one_dict_an_epoch(finished):
    rows = []
    run = SimpleNamespace(log=rows.append)
    finished.to_wandb(run, prefix="mine")
    assert [row["mine/epoch"] for row in rows] == [0, 1, 2]
    assert rows[1]["mine/share.audio"] == finished.records[1]["share.audio"]


@pytest.mark.parametrize("names", [("a",), ("a", "a"), (), "ab", ("1", 1)])
def test_a_log_needs_two_different_modalities(names):
    with pytest.raises(MidasAugError, match="two or more modalities"):
        TrainingLog(names)


def test_a_batch_without_labels_and_wrong_logits_are_told():
    steps, log = Steps(), TrainingLog(NAMES)
    out, given = steps.take(1)
    with pytest.raises(MidasAugError, match="one row for each of the N aligned"):
        log.update(out, logits=given["logits"][:5])
    augment = MisalignAugment(NAMES, CLASSES)
    batch = {name: torch.randn(6, 2) for name in NAMES} | {"label": torch.arange(6) % CLASSES}
    with pytest.raises(MidasAugError, match="label"):
        log.update(augment.draw(batch))


def _rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    steps, log = Steps(), TrainingLog(NAMES)
    for step in range(rank, 6, 2):  # every other step is the other rank's
        out, given = steps.take(step)
        log.update(out, logits=given["logits"])
    log.end_epoch(0)
    Path(folder, f"{rank}.json").write_text(json.dumps(log.to_dict()))
    dist.destroy_process_group()


def test_two_ranks_have_the_record_of_one_process_that_saw_it_all():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (folder,), nprocs=2)
        first, second = (json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    whole = TrainingLog(NAMES)
    for rank in range(2):
        steps = Steps()
        for step in range(rank, 6, 2):
            out, given = steps.take(step)
            whole.update(out, logits=given["logits"])
    whole.end_epoch(0)
    wanted = whole.to_dict()
    assert first["histograms"] == wanted["histograms"]
    for name, (value,) in wanted["scores"].items():
        assert first["scores"][name] == [pytest.approx(value)]


@pytest.mark.parametrize("sync", ["no", 0, None])
def test_a_word_is_no_switch(sync):
    with pytest.raises(MidasAugError, match="expected sync to be True or False"):
        TrainingLog(NAMES, sync=sync)
