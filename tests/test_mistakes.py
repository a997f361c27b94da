"""Mistakes of callers: each is said in words that lead to what is right, or makes no difference."""

import copy
import pickle
import warnings
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from midas_aug import (
    FactoredLinear,
    FusionWeights,
    MidasAugError,
    MidasLoss,
    MisalignAugment,
    RatioWeakModalityWeight,
    WeakModalityWeight,
)
from midas_aug import functional as F
from midas_aug.confidence import (
    FrozenConfidence,
    HeadConfidence,
    PrototypeConfidence,
    SkillConfidence,
)
from midas_aug.integrations.module import AugmentModule
from midas_aug.targets import ClassIndex, Distribution, MultiLabel

N, C = 6, 3
LABELS = torch.arange(N) % C
BATCH = {"a": torch.randn(N, 4), "b": torch.randn(N, 4)}
WRAPPED = torch.tensor([2**63 + 5, 2**63 + 6, 0, 1, 2, 0], dtype=torch.uint64)


def augmented(**settings: Any) -> MisalignAugment:
    return MisalignAugment(("a", "b"), C, confidence="uniform", seed=0, **settings)


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.sample_partners(WRAPPED),
        lambda: F.plan_swaps(WRAPPED, 2),
        lambda: F.skill_score(torch.randn(N, C), WRAPPED),
        lambda: PrototypeConfidence({"a": 4, "b": 4}, C).update(BATCH, WRAPPED),
        lambda: augmented()(BATCH, WRAPPED),
    ],
)
def test_labels_that_wrapped_around_in_uint64_are_no_ignored_rows(call):
    with pytest.raises(MidasAugError, match=r"above 2\^63.*signed dtype"):
        call()


@pytest.mark.parametrize("labels", [torch.linspace(0, 1, N), torch.randn(N, 2), LABELS > 0])
def test_labels_of_other_kinds_are_not_to_be_cut_to_integers(labels):
    with pytest.raises(MidasAugError, match="Continuous for numbers, MultiLabel") as caught:
        F.sample_partners(labels)
    assert "long()" not in str(caught.value)
    with pytest.raises(
        MidasAugError, match=r"expected index to have an integer dtype.*rows of the"
    ):
        F.gather_rows(BATCH, torch.zeros(3))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS.to_sparse(), "sparse_coo"),
        (np.ma.masked_array(np.arange(N) % C, mask=np.arange(N) == 2), r"array\.filled\(-1\)"),
    ],
)
def test_labels_that_hide_rows_are_refused(labels, words):
    with pytest.raises(MidasAugError, match=words):
        augmented()(BATCH, labels)


def test_rows_of_an_object_array_that_hold_none_are_refused_in_a_modality():
    rows = np.empty(N, object)
    rows[:] = [np.zeros(2), None, *[np.zeros(3)] * (N - 2)]
    with pytest.raises(MidasAugError, match=r"batch\['a'\] to have something.* got None in row 1"):
        augmented(hardness=None)({**BATCH, "a": rows}, LABELS)
    out = augmented(hardness=None)({**BATCH, "note": rows}, LABELS)
    assert out["note"][N + 1] is None


def test_none_beside_arrays_of_a_modality_stays_none():
    augment = MisalignAugment(
        {"a": ["ids", "types"], "b": "b"}, C, confidence="uniform", hardness=None
    )
    batch = {"ids": torch.ones(N, 2), "types": None, "b": BATCH["b"]}
    assert augment(batch, LABELS)["types"] is None
    with pytest.raises(MidasAugError, match="got None; a modality that the whole batch lacks"):
        augment({**batch, "ids": None}, LABELS)


def test_a_tuple_of_images_is_taken_for_parts_with_a_word_where_it_could_be_rows():
    images = tuple(torch.zeros(3, 8, 8) for _ in range(3))
    batch = {"a": images, "b": torch.randn(3, 2)}
    augment = augmented(hardness=None)
    with pytest.warns(UserWarning, match=r"taken for 3 parts.* zip\(\*samples\), pass a list"):
        augment(batch, LABELS[:3])
    tokens = torch.ones(2, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augment({"a": (tokens, tokens), "b": torch.randn(2, 2)}, LABELS[:2])  # ids and a mask


@pytest.mark.parametrize(
    ("modalities", "strays", "group"),
    [
        (
            {"text": "input_ids", "image": "pixel_values"},
            ("pixel_mask", "token_type_ids"),
            "{'image': ['pixel_values', 'pixel_mask'], 'text': ['input_ids', 'token_type_ids'], ",
        ),
        (("pixel_values", "input_values"), ("attention_mask",), "{'input_values': ['input_values'"),
        (("image", "image_depth"), ("image_depth_mask",), "{'image_depth': ['image_depth',"),
        (("audio", "video"), ("lengths",), "group what belongs together, in one modality, or"),
    ],
)
def test_a_key_that_is_left_behind_is_given_to_the_modality_it_belongs_to(
    modalities, strays, group
):
    augment = MisalignAugment(modalities, C, confidence="uniform", hardness=None)
    keys = [key for keys in augment.keys.values() for key in keys]
    with pytest.warns(UserWarning, match="stay with the anchor") as caught:
        augment({key: torch.ones(N, 2) for key in (*keys, *strays)}, LABELS)
    (warning,) = caught
    assert group in str(warning.message)
    assert all(repr(key) in str(warning.message) for key in strays)


def test_the_mask_of_present_modalities_is_not_taken_for_a_part_of_one():
    augment = augmented(present="mask")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augment({**BATCH, "mask": torch.ones(N, 2, dtype=torch.bool)}, LABELS)


@pytest.mark.parametrize("flags", [["yes", "no"] * 3, [True, None] * 3, [[True], [False]] * 3])
def test_flags_that_are_no_flags_are_named(flags):
    with pytest.raises(MidasAugError, match="expected the flags of present as True and False"):
        augmented()(BATCH, LABELS, present={"a": flags, "b": [True] * N})


@pytest.mark.parametrize(
    ("batch", "label"),
    [([{"a": torch.zeros(4), "label": 1}] * 4, "label"), ([(torch.zeros(4), torch.ones(2), 1)], 2)],
)
def test_samples_in_place_of_a_batch_lead_to_collate(batch, label):
    augment = augmented(label=label)
    with pytest.raises(MidasAugError, match=r"a list of \d samples.*collate_fn=augment\.collate\("):
        augment(batch)
    found = MisalignAugment(
        (0, 1), C, confidence="uniform", label=lambda parts: parts[2]["y"], hardness=None
    )
    parts = [{"x": torch.ones(N, 2)}, {"x": torch.ones(N, 2)}, {"y": LABELS}]
    assert len(found(parts).valid) == 3 * N


def test_one_logit_a_row_is_explained_and_will_do_for_one_output():
    out = augmented()(BATCH, LABELS)
    with pytest.raises(MidasAugError, match=r"shape \(N, 3\), got \(18,\), one number a row"):
        MidasLoss(2)(torch.randn(3 * N), out)
    augment = MisalignAugment(("a", "b"), target=Distribution(2), confidence="uniform")
    soft = augment(BATCH, torch.full((N, 2), 0.5))
    with pytest.raises(MidasAugError, match="build that head with as many"):
        MidasLoss(2)(torch.randn(3 * N, 1), soft)
    yes = MisalignAugment(("a", "b"), target=MultiLabel(1), confidence="uniform", seed=0)
    ticked = yes(BATCH, (LABELS > 0).float()[:, None])
    scores = torch.randn(len(ticked.valid))
    one, other = (MidasLoss(2)(z, ticked) for z in (scores, scores[:, None]))
    assert torch.equal(one, other)


def test_a_switch_that_is_a_word_is_refused_wherever_there_is_one():
    with pytest.raises(MidasAugError, match="materialize to be True or False, got 'no'"):
        augmented()(BATCH, LABELS, materialize="no")
    with pytest.raises(MidasAugError, match="sync to be True or False, got 'no'"):
        WeakModalityWeight(2).sync = "no"


@pytest.mark.parametrize("name", ["step_size", "max_alpha"])
@pytest.mark.parametrize("value", [1e39, float("nan"), 10**400, "0.1"])
def test_numbers_of_a_rule_are_checked_given_or_set(name, value):
    with pytest.raises(MidasAugError, match=f"expected a finite {name}"):
        WeakModalityWeight(2, **{name: value})
    with pytest.raises(MidasAugError, match=f"expected a finite {name}"):
        setattr(WeakModalityWeight(2), name, value)


@pytest.mark.parametrize("rule", [WeakModalityWeight, RatioWeakModalityWeight])
def test_the_largest_steps_leave_alpha_finite(rule):
    criterion = MidasLoss(2, weak_modality=rule(2, step_size=3e38))
    out = augmented()(BATCH, LABELS)
    for _ in range(4):
        criterion(torch.randn(3 * N, C), out)
    assert criterion.alpha.isfinite().all()


def test_alpha_in_another_dtype_is_mended_however_it_came_there():
    criterion = MidasLoss(2)
    criterion.weak_modality._buffers["alpha"] = torch.tensor([16.0, 1.0]).bfloat16()
    criterion(torch.randn(3 * N, C), augmented()(BATCH, LABELS))
    assert criterion.alpha.dtype == torch.float32


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        (torch.ones(3), r"shape \(2,\), got \(3,\)"),
        (torch.tensor([torch.nan, 1.0]), "finite and at least 1"),
        (torch.tensor([0.5, 1.0]), "finite and at least 1"),
    ],
)
def test_an_alpha_that_no_step_gives_is_refused(alpha, words):
    weak = WeakModalityWeight(2)
    with pytest.raises(MidasAugError, match=words):
        weak.alpha = alpha
    weak.alpha = torch.tensor([2.0, 1.0])
    assert weak.alpha.tolist() == [2.0, 1.0]


def test_counts_that_are_no_whole_numbers_are_refused():
    module = AugmentModule(augmented())
    state = {**module.state_dict(), "stream.calls": torch.tensor([2.7])}
    with pytest.raises(MidasAugError, match=r"stream\.calls in the checkpoint in whole numbers"):
        module.load_state_dict(state)


def test_a_confidence_is_not_set_afterwards():
    with pytest.raises(MidasAugError, match="confidence to be given to MisalignAugment"):
        augmented().confidence = PrototypeConfidence({"a": 4, "b": 4}, C)


def test_a_row_that_does_not_count_gives_no_nan_to_its_gradient():
    logits = torch.randn(N, C)
    logits[5] = torch.nan
    logits.requires_grad_()
    labels = LABELS.masked_fill(torch.arange(N) == 5, -1)[:, None].expand(-1, 2)
    F.misaligned_cross_entropy(logits, labels, torch.full((N, 2), 0.5)).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[5].eq(0).all()


def test_softmax_outputs_of_heads_are_noticed_by_the_loss_alone():
    out = augmented()(BATCH, LABELS)
    heads = {name: torch.randn(N, C).softmax(dim=1) for name in BATCH}
    with pytest.warns(UserWarning, match=r"unimodal_logits\['a'\] look like probabilities"):
        MidasLoss(2)(torch.randn(3 * N, C), out, unimodal_logits=heads)


@pytest.mark.parametrize("seed", ["0", 1.5, True, None])
def test_folds_have_an_integer_for_a_seed(seed):
    skill = SkillConfidence(("a", "b"), C)
    with pytest.raises(MidasAugError, match="expected seed to be an integer"):
        skill.cross_fit(lambda training, held_out: {}, LABELS, folds=2, seed=seed)


@pytest.mark.parametrize("seed", [np.int64(3), 2**70])
def test_folds_take_any_integer_for_a_seed(seed):
    skill = SkillConfidence(("a", "b"), C)
    skill.cross_fit(
        lambda _, rows: {name: torch.randn(len(rows), C) for name in BATCH},
        LABELS,
        folds=2,
        seed=seed,
    )
    assert skill.steps == 1


def test_rows_survive_a_fit_that_was_refused():
    fitted = FusionWeights(FactoredLinear({"a": 4, "b": 4}, C))
    fitted.update({**BATCH, "a": BATCH["a"] * torch.inf}, LABELS)
    for _ in range(2):
        with pytest.raises(MidasAugError, match="finite parts"):
            fitted.step()


def test_the_module_around_an_augmentation_switches_it():
    module = AugmentModule(augmented())
    module.enabled = False
    assert len(module(BATCH, LABELS).valid) == N
    assert not module.augment.enabled


@pytest.mark.parametrize("target", [ClassIndex(C), MultiLabel(C), Distribution(C)])
def test_validate_compiles(target):
    labels = LABELS if isinstance(target, ClassIndex) else torch.eye(C)[LABELS]
    augment = MisalignAugment(("a", "b"), target=target, seed=0, validate=True)
    eager = copy.deepcopy(augment)
    heads = {name: torch.randn(N, C) for name in BATCH}

    @torch.compile(backend="eager", fullgraph=True)
    def shares(batch: Any, given: Any) -> Any:
        return augment(batch, given, unimodal_logits=heads).shares

    torch.testing.assert_close(
        shares(BATCH, labels), eager(BATCH, labels, unimodal_logits=heads).shares
    )


def provider(kind: str) -> Any:
    torch.manual_seed(0)
    head = HeadConfidence({"a": 4, "b": 4}, C)
    if kind == "frozen":
        return FrozenConfidence({"a": nn.Linear(4, C), "b": nn.Linear(4, C)})
    if kind == "prototype":
        found = PrototypeConfidence({"a": 4, "b": 4}, C)
        found.update(BATCH, LABELS)
        return found
    return {"head": head, "skill": SkillConfidence(("a", "b"), C)}[kind]


def check_export(model: nn.Module) -> None:
    """A model of both features, exported with N rows, does with fewer what it does itself."""
    rows = torch.export.Dim("rows", min=2, max=1000)
    exported = torch.export.export(
        model, (BATCH["a"], BATCH["b"]), dynamic_shapes=({0: rows}, {0: rows}), strict=False
    )
    fewer = (BATCH["a"][:4], BATCH["b"][:4])
    torch.testing.assert_close(exported.module()(*fewer), model(*fewer))


@pytest.mark.parametrize("kind", ["head", "frozen", "prototype", "skill"])
def test_a_provider_is_exported_for_any_number_of_rows(kind):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.provider = provider(kind)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            labels = torch.zeros(a.shape[0], dtype=torch.int64)
            return self.provider({"a": a, "b": b}, labels) + 0

    check_export(Model().eval())


def test_prediction_without_labels_is_exported_for_any_number_of_rows():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.augment, self.fusion = AugmentModule(augmented()), nn.Linear(8, C)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> Any:
            out = self.augment({"a": a, "b": b})
            return self.fusion(torch.cat([out["a"], out["b"]], dim=1))

    check_export(Model().eval())


def test_a_warning_comes_once_for_an_augmentation_whatever_becomes_of_its_rule():
    augment, heads = augmented(hardness="auto"), {"a": torch.ones(N, 2).long(), "b": BATCH["b"]}
    with pytest.warns(UserWarning, match="hardness='auto' weighs no sample"):
        augment(heads, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        augment.misaligned_weight = 0.5  # another rule
        augment(heads, LABELS)
        pickle.loads(pickle.dumps(augment.draw(heads, LABELS))).label(augment.confidence)


def test_a_module_that_is_switched_off_asks_for_no_confidence_before_the_step():
    def asked(batch: Any, labels: Any) -> Any:
        raise AssertionError

    module = AugmentModule(MisalignAugment(("a", "b"), C, confidence=asked))
    module.enabled = False
    assert len(module.draw({**BATCH, "label": LABELS}).valid) == N


def test_what_a_callable_has_of_a_provider_counts():
    class Mine:
        target = MultiLabel(C)

        def __call__(self, batch: Any, labels: Any) -> Any:
            return torch.ones(len(labels), 2)

        def shares_of_present(self, confidence: Any, source: Any, present: Any) -> Any:
            return torch.tensor([0.25, 0.75]).expand(len(source), 2)

    with pytest.raises(MidasAugError, match=r"expected a confidence for ClassIndex\(3\)"):
        MisalignAugment(("a", "b"), C, confidence=Mine())
    del Mine.target
    augment = MisalignAugment(("a", "b"), C, confidence=Mine(), seed=0)
    out = augment(BATCH, LABELS, present=torch.ones(N, 2, dtype=torch.bool))
    assert out.shares[N:].unique().tolist() == [0.25, 0.75]


def test_a_generator_cannot_draw_again_under_activation_checkpointing():
    features = {name: rows.clone().requires_grad_() for name, rows in BATCH.items()}
    augment = MisalignAugment(("a", "b"), C, confidence="uniform")
    generator = torch.Generator().manual_seed(0)

    def mixed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        out = augment({"a": a, "b": b}, LABELS, generator=generator)
        return (out["a"] * out["b"]).sum()

    total = checkpoint(mixed, features["a"], features["b"], use_reentrant=False)
    with pytest.raises(MidasAugError, match=r"got a generator.* build the augmentation with seed="):
        total.backward()


def test_an_object_that_holds_rows_is_no_leaf_without_any():
    held = SimpleNamespace(boxes=torch.zeros(N, 4))
    with pytest.raises(MidasAugError, match="make it a dict or a dataclass, or name its key in"):
        augmented()({**BATCH, "note": held}, LABELS)
    assert augmented(keep=("note",))({**BATCH, "note": held}, LABELS)["note"] is held
    plain = SimpleNamespace(scale=torch.zeros(4), name="x")
    assert augmented()({**BATCH, "note": plain}, LABELS)["note"] is plain


def test_numbers_without_values_are_refused_by_what_has_some_there():
    with torch.device("meta"):
        given = torch.tensor([1.0, 2.0, 3.0])
        for make in (
            lambda numbers: ClassIndex(C, class_weight=numbers),
            lambda numbers: SkillConfidence(("a", "b"), C, class_counts=numbers),
        ):
            with pytest.raises(MidasAugError, match="got a tensor on the meta device"):
                make(given)
            make([1, 2, 3])


def test_prototypes_are_averaged_with_their_model():
    model = nn.ModuleDict({"confidence": provider("prototype")})
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for _ in range(2):
        averaged.update_parameters(model)
    kept = averaged.module["confidence"]
    assert kept.seen.all()
    assert kept.seen.dtype == torch.bool
    old = model.state_dict() | {"confidence.seen_by_modality": torch.ones(2, C, dtype=torch.bool)}
    model.load_state_dict(old)  # as it was saved before


def test_heads_take_features_of_another_float_dtype_and_name_numpy():
    head = provider("head").bfloat16()
    assert head.unimodal_logits(BATCH)["a"].dtype == torch.bfloat16
    with pytest.raises(MidasAugError, match=r"got a NumPy array; pass torch\.from_numpy"):
        head.unimodal_logits({name: rows.numpy() for name, rows in BATCH.items()})


def test_a_batch_without_labels_may_lack_the_first_key_of_a_modality():
    augment = MisalignAugment({"a": ["ids", "embeds"], "b": "b"}, C, hardness=None)
    out = AugmentModule(augment).eval()({"ids": None, "embeds": BATCH["a"], "b": BATCH["b"]})
    assert len(out.valid) == N


def test_containers_that_are_made_in_ways_of_their_own_are_rebuilt():
    class Pair(NamedTuple):
        a: Any
        b: Any

    class Strict(Pair):
        def __new__(cls, **fields: Any) -> "Strict":
            return super().__new__(cls, fields["a"], fields["b"])

    class Frozen(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            raise TypeError

    for batch in (Strict(**BATCH), Frozen(BATCH)):
        assert len(augmented()(batch, LABELS)["a"]) == 3 * N


def test_arrays_of_other_libraries_are_to_be_converted():
    class Other:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.arange(N) % C

    with pytest.raises(MidasAugError, match=r"convert it with torch\.as_tensor or numpy\.asarray"):
        augmented()(BATCH, Other())


def test_numbers_of_state_are_float32_under_another_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        assert MidasLoss(2, weak_modality=None).alpha.dtype == torch.float32
        fitted = FusionWeights(FactoredLinear({"a": 4, "b": 4}, C))
        assert fitted.weights.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
