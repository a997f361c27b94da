"""What a confidence provider reads: logits of the right width, and modalities by their names."""

import warnings

import pytest
import torch
from torch import nn

from midas_aug import MidasAugError, MisalignAugment
from midas_aug.confidence import (
    CalibratedConfidence,
    ConfidenceProvider,
    FrozenConfidence,
    HeadConfidence,
    LogitConfidence,
    PrototypeConfidence,
)
from midas_aug.targets import ClassIndex, MultiLabel

N, C = 12, 3
LABELS = torch.arange(N) % C
NAMES = ("a", "b")


def rows(a: int = 8, b: int = 16, n_rows: int = N) -> dict[str, torch.Tensor]:
    return {"a": torch.randn(n_rows, a), "b": torch.randn(n_rows, b)}


def classifiers(a: int, b: int, end: nn.Module | None = None) -> dict[str, nn.Module]:
    ends = nn.Identity() if end is None else end
    return {
        "a": nn.Sequential(nn.Linear(8, a), ends),
        "b": nn.Sequential(nn.Linear(16, b), ends),
    }


# ---------------------------------------------------------------- widths


LOOKED_UP = {
    "LogitConfidence": lambda **told: LogitConfidence(NAMES, temperature=2.0, **told),
    "CalibratedConfidence": lambda **told: CalibratedConfidence(LogitConfidence(NAMES, **told)),
}
IN_THE_BATCH = r"name their keys.*unimodal_logits=\{name: \(N, C\) logits\}"


@pytest.mark.parametrize("told", [{}, {"target": ClassIndex(C)}])
@pytest.mark.parametrize("make", LOOKED_UP.values(), ids=LOOKED_UP)
def test_features_in_the_place_of_logits_are_refused(make, told):
    for features in (rows(), rows(8, 8)):
        for call in (
            lambda given: MisalignAugment(NAMES, C, confidence=make(**told))(given, LABELS),
            lambda given: MisalignAugment(NAMES, C).draw(given, LABELS).label(make(**told)),
            lambda given: (
                MisalignAugment(NAMES, C).draw(given, LABELS).label(make(**told), features=given)
            ),
        ):
            words = rf"batch\['a'\] of shape \(12, 3\).*got \(12, 8\).*{IN_THE_BATCH}"
            with pytest.raises(MidasAugError, match=words):
                call(features)
    logits = rows(C, C)
    out = MisalignAugment(NAMES, C, confidence=make(**told))(rows(), LABELS, unimodal_logits=logits)
    assert torch.equal(out.confidence, make(**told)(logits, LABELS))
    assert torch.equal(
        out.confidence, MisalignAugment(NAMES, C, confidence=make())(logits, LABELS).confidence
    )


@pytest.mark.parametrize("make", LOOKED_UP.values(), ids=LOOKED_UP)
def test_logits_of_two_widths_are_refused_by_a_provider_that_knows_no_classes(make):
    words = rf"as many columns.*8 in batch\['a'\], 16 in batch\['b'\].*{IN_THE_BATCH}"
    with pytest.raises(MidasAugError, match=words):
        make()(rows(), LABELS)
    with pytest.raises(MidasAugError, match=r"8 in unimodal_logits\['a'\], 16 in"):
        make().from_logits(rows(), LABELS)
    assert make()(rows(5, 5), LABELS).shape == (N, 2)  # may be of five classes


def test_temperatures_are_not_fitted_to_logits_of_two_widths():
    calibrated = CalibratedConfidence(LogitConfidence(NAMES))
    with pytest.raises(MidasAugError, match="as many columns"):
        calibrated.fit(rows(), LABELS)
    assert calibrated.temperatures.tolist() == [1, 1]


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("width", [2, 1000])
def test_classifiers_of_other_classes_are_refused(width, calibrate):
    def make(held, **told):
        frozen = FrozenConfidence(held, **told)
        return CalibratedConfidence(frozen) if calibrate else frozen

    words = r"unimodal_logits\['a'\] of shape \(12, 3\).*one output for each class"
    for told in ({}, {"target": ClassIndex(C)}):
        with pytest.raises(MidasAugError, match=words):
            MisalignAugment(NAMES, C, confidence=make(classifiers(width, width), **told))(
                rows(), LABELS
            )
    with pytest.raises(MidasAugError, match=words):
        make(classifiers(width, width), target=ClassIndex(C))(rows(), LABELS)
    with pytest.raises(MidasAugError, match=rf"as many columns.*{width} in.*3 in.*one output"):
        make(classifiers(width, C))(rows(), LABELS)
    with pytest.raises(MidasAugError, match="softmax over the classes: build that head with 3"):
        make(classifiers(1, 1), target=ClassIndex(C))(rows(), LABELS)


def test_a_head_of_ones_own_with_another_width_is_refused():
    heads = HeadConfidence({"a": 8, "b": 16}, C)
    heads.heads[1] = nn.Linear(16, 4)
    with pytest.raises(MidasAugError, match=r"unimodal_logits\['b'\] of shape \(12, 3\)"):
        MisalignAugment(NAMES, C, confidence=heads)(rows(), LABELS)


def test_other_labels_are_checked_by_their_target():
    target, labels = MultiLabel(C), torch.eye(C)[LABELS]
    for confidence in (
        LogitConfidence(NAMES, target=target),
        FrozenConfidence(classifiers(8, 8), target=target),
    ):
        with pytest.raises(MidasAugError, match=r"\(12, 3\), got \(12, 8\)"):
            MisalignAugment(NAMES, target=target, confidence=confidence)(rows(), labels)


@pytest.mark.parametrize("calibrate", [False, True])
def test_classifiers_that_end_in_a_softmax_are_told_once_at_the_call(calibrate):
    heads = HeadConfidence({"a": 8, "b": 16}, C)
    for head in heads.heads:
        head.register_forward_hook(lambda _, __, out: out.softmax(dim=1))
    for told in (heads, FrozenConfidence(classifiers(C, C, nn.Softmax(dim=1)))):
        provider = CalibratedConfidence(told) if calibrate else told
        with pytest.warns(UserWarning, match=r"\['a'\] look like probabilities") as caught:
            provider(rows(), LABELS)
        assert caught[0].filename == __file__
        provider(rows(), LABELS)  # warnings are errors here
    FrozenConfidence(classifiers(C, C))(rows(), LABELS)
    sigmoids = FrozenConfidence(classifiers(C, C, nn.Sigmoid()), target=MultiLabel(C))
    with pytest.warns(UserWarning, match="as after a sigmoid"):
        sigmoids(rows(), torch.eye(C)[LABELS])


def test_a_subclass_whose_call_is_of_its_own_is_called_as_it_says():
    class Plain(LogitConfidence):
        def __call__(self, batch, labels):
            return super().__call__({"a": batch["x"], "b": batch["y"]}, labels)

    class Told(ConfidenceProvider):
        def __call__(self, batch, labels, *, target):
            self.told = target
            return torch.ones(len(labels), 2)

    class Silent(FrozenConfidence):
        def forward(self, batch, labels):
            return super().forward(batch, labels)

    assert [kind.takes_target for kind in (LogitConfidence, Plain, Told, Silent)] == [
        *(True, False, True, False)
    ]
    batch = {**rows(), "x": torch.randn(N, C), "y": torch.randn(N, C)}
    told = Told()
    for provider in (Plain(NAMES), told, Silent(classifiers(C, C))):
        assert MisalignAugment(NAMES, C, confidence=provider)(batch, LABELS).shares.isfinite().all()
    assert repr(told.told) == repr(ClassIndex(C))


# ---------------------------------------------------------------- modalities by name


KEYS = {"img": "a", "txt": "b"}


def named_providers() -> dict[str, ConfidenceProvider]:
    torch.manual_seed(0)
    dims = {"img": 8, "txt": 16}
    prototypes = PrototypeConfidence(dims, C)
    prototypes.update({"img": torch.randn(N, 8), "txt": torch.randn(N, 16)}, LABELS)
    heads = HeadConfidence(dims, C)
    return {
        "heads": heads,
        "frozen": FrozenConfidence({name: nn.Linear(dim, C) for name, dim in dims.items()}),
        "prototypes": prototypes,
        "calibrated": CalibratedConfidence(heads),
    }


@pytest.mark.parametrize("name", named_providers())
def test_providers_find_modalities_by_name_where_the_batch_has_other_keys(name):
    provider, batch = named_providers()[name], rows()
    by_name = {new: batch[key] for new, key in KEYS.items()}
    want = provider(by_name, LABELS)
    for materialize in (True, False):
        augment = MisalignAugment(KEYS, C, confidence=provider, seed=0)
        out = augment({**batch, "label": LABELS}, materialize=materialize)
        torch.testing.assert_close(out.confidence, want)
    # Positions of a tuple batch; encoder outputs by name, and in order.
    whole = MisalignAugment({"img": 0, "txt": 2}, C, label=1, confidence=provider)
    torch.testing.assert_close(whole((batch["a"], LABELS, batch["b"])).confidence, want)
    raw = {"a": torch.rand(N, 5), "b": torch.rand(N, 5), "label": LABELS}
    for features in (by_name, list(by_name.values())):
        drawn = MisalignAugment(KEYS, C).draw(raw)
        torch.testing.assert_close(drawn.label(provider, features=features).confidence, want)
    plain = MisalignAugment(tuple(KEYS), C, confidence=provider)
    torch.testing.assert_close(plain(by_name, LABELS).confidence, want)


class OfMapping(nn.Module):
    """A classifier of a modality with several keys."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, C)

    def forward(self, held):
        assert set(held) == {"ids", "mask"}
        return self.linear(held["ids"] * held["mask"])


def test_a_classifier_of_several_keys_is_given_a_mapping_and_a_key_counts_before_a_name():
    keys = {"img": "img", "text": ["ids", "mask"]}
    frozen = FrozenConfidence({"img": nn.Linear(8, C), "text": OfMapping()})
    batch = {"img": torch.randn(N, 8), "ids": torch.randn(N, 4), "mask": torch.ones(N, 4)}
    out = MisalignAugment(keys, C, confidence=frozen, hardness=None)(batch, LABELS)
    logits = [frozen.classifiers[0](batch["img"]), frozen.classifiers[1].linear(batch["ids"])]
    want = frozen.from_logits(logits, LABELS)
    torch.testing.assert_close(out.confidence, want)
    turned = FrozenConfidence({"a": nn.Linear(8, C), "b": nn.Linear(16, C)})
    swapped = MisalignAugment({"a": "b", "b": "a"}, C, confidence=turned)
    given = rows()
    torch.testing.assert_close(swapped(given, LABELS).confidence, turned(given, LABELS))


def test_where_names_are_keys_of_their_own_or_of_logits_the_batch_is_left_as_it_is():
    batch = {**rows(), "label": LABELS}
    with pytest.raises(MidasAugError, match="expected the unimodal logits 'img'"):
        MisalignAugment(KEYS, C, confidence=LogitConfidence(tuple(KEYS)))(batch)
    by_key = FrozenConfidence(classifiers(C, C))
    out = MisalignAugment(KEYS, C, confidence=by_key)(batch)
    torch.testing.assert_close(out.confidence, by_key(batch, LABELS))
    seen = []

    def confidence(given, labels):
        seen.append(given)
        return torch.ones(len(labels), 2)

    confidence.modalities = tuple(KEYS)
    MisalignAugment(KEYS, C, confidence=confidence)(batch, materialize=False)
    assert seen[0] is batch


# ---------------------------------------------------------------- containers of modules


def test_a_module_dict_is_a_mapping_from_names_to_classifiers():
    held = nn.ModuleDict(classifiers(C, C))
    frozen = FrozenConfidence(held)
    assert frozen.modalities == NAMES
    batch = rows()
    want = FrozenConfidence(dict(held.items()))(batch, LABELS)
    assert torch.equal(frozen(batch, LABELS), want)
    with pytest.raises(MidasAugError, match="feature size of 'a'"):
        HeadConfidence(held, C)


@pytest.mark.parametrize("held", [nn.ModuleDict, nn.ModuleList])
def test_heads_in_the_place_of_a_provider_are_told_of_one(held):
    given = classifiers(C, C)
    heads = held(given) if held is nn.ModuleDict else held(given.values())
    words = rf"got {held.__name__}, which cannot be called; pass FrozenConfidence.*unimodal_logits="
    with pytest.raises(MidasAugError, match=words):
        MisalignAugment(NAMES, C, confidence=heads)
    with pytest.raises(MidasAugError, match=words):
        MisalignAugment(NAMES, C).draw(rows(), LABELS).label(heads)


def test_numpy_logits_are_checked_too():
    batch = {name: each.numpy() for name, each in rows(8, 8).items()}
    with pytest.raises(MidasAugError, match=r"batch\['a'\] of shape \(12, 3\)"):
        MisalignAugment(NAMES, C, confidence=LogitConfidence(NAMES))(batch, LABELS.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        good = {name: torch.randn(N, C).numpy() for name in NAMES}
        MisalignAugment(NAMES, C, confidence=LogitConfidence(NAMES))(good, LABELS.numpy())
