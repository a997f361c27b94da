"""The examples of other labels than one class, and of rows that lack a modality."""

import missing_modalities
import multi_label
import pytest
import regression
import torch
import weighted_classes


def test_several_labels_are_learned_with_either_loss():
    """Half of the rows would be right by chance, or somewhat more."""
    told = multi_label.main(epochs=4)
    assert list(told) == ["even", "prime", "has a loop", "above four"]
    assert min(told.values()) > 0.9
    assert min(multi_label.main(epochs=4, stock=True).values()) > 0.9


def test_the_labels_of_a_digit_are_what_is_true_of_it():
    for digit, row in enumerate(multi_label.TABLE.bool().tolist()):
        prime = digit > 1 and all(digit % divisor for divisor in range(2, digit))
        assert row == [digit % 2 == 0, prime, digit in (0, 6, 8, 9), digit > 4]


def test_a_number_is_learned():
    told = regression.main(epochs=4)
    assert told["R²"] > 0.7
    assert told["mean absolute error"] < 1.5


def test_class_weights_save_the_rare_digits():
    told = weighted_classes.main(epochs=4)
    assert min(told.values()) > 0.7
    assert weighted_classes.main(epochs=4, even=True)["rare digits"] < 0.3


def test_digits_are_learned_with_a_view_missing_in_a_third_of_the_rows():
    told = missing_modalities.main(epochs=4)
    assert told["all views"] > 0.9
    assert min(told.values()) > 0.5


def test_a_view_is_missing_in_some_rows_and_never_all_of_them():
    present = missing_modalities.draw_present(3000, torch.Generator().manual_seed(0))
    has = torch.stack([*present.values()], dim=1)
    assert has.any(dim=1).all()
    assert (~has).float().mean().item() == pytest.approx(1 / 3 - 1 / 9, abs=0.02)
    features = {view: torch.ones(3000, 2) for view in present}
    for view, feature in missing_modalities.only(features, present).items():
        assert torch.equal(feature[:, 0].bool(), present[view])
