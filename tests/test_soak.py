"""The soak finds nothing in 200 batches, finds a planted fault, and goes on where it stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import soak

BATCHES = 200


def run(folder: Path, batches: int, seed: int = 1) -> int:
    state = ["--state", str(folder / "state.json")]
    return soak.main(["--batches", str(batches), "--seed", str(seed), *state])


def test_two_hundred_batches_agree_with_the_oracle(tmp_path, capsys):
    assert run(tmp_path, BATCHES) == 0
    said = capsys.readouterr().out
    assert f"{BATCHES} batches, seed 1, 0 mismatches" in said
    for name in (*soak.COUNTED, "HeadConfidence", "permute", "bfloat16", "ratio"):
        assert name in said


def reversed_columns(function: Any) -> Any:
    def faulty(*arguments: Any, **options: Any) -> Any:
        found = function(*arguments, **options)
        return found.flip(1) if isinstance(found, torch.Tensor) else found[:, ::-1].copy()

    return faulty


def half_of_it(function: Any) -> Any:
    return lambda *arguments, **options: function(*arguments, **options) * 0.5


def half_of_each(function: Any) -> Any:
    return lambda *arguments, **options: tuple(
        0.5 * part for part in function(*arguments, **options)
    )


def one_step_more(function: Any) -> Any:
    return lambda alpha, *rest, **options: function(alpha, *rest, **options) + 0.05


def first_row(function: Any) -> Any:
    def faulty(*arguments: Any, **options: Any) -> Any:
        partner, valid = function(*arguments, **options)
        return torch.zeros_like(partner), valid

    return faulty


@pytest.mark.parametrize(
    ("place", "plant", "word"),
    [
        ("midas_aug.confidence.base.label_shares", reversed_columns, "shares"),
        ("midas_aug._hardness.hard_sample_weights", half_of_it, "hard-sample weights"),
        ("midas_aug.weak_modality.step_from_sums", one_step_more, "alpha"),
        ("midas_aug.functional.plan.partners_from_draws", first_row, "sources"),
        ("midas_aug.targets.class_index.soft_targets", reversed_columns, "targets"),
        ("midas_aug.confidence.base.true_class_log_probability", half_of_it, "confidence"),
        ("midas_aug.loss.loss_terms_of", half_of_each, "loss"),
    ],
)
def test_a_planted_fault_is_found(place, plant, word, tmp_path, monkeypatch, capsys):
    owner, _, name = place.rpartition(".")
    right = getattr(__import__(owner, fromlist=[name]), name)
    monkeypatch.setattr(place, plant(right))
    assert run(tmp_path, BATCHES) == 1
    said = capsys.readouterr().out
    assert any(line.startswith("MISMATCH") and word in line for line in said.splitlines()), said


def test_an_exception_is_a_mismatch(tmp_path, monkeypatch, capsys):
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("midas_aug.weak_modality.step_from_sums", broken)
    assert run(tmp_path, BATCHES) == 1
    assert "ZeroDivisionError in test_soak.py" in capsys.readouterr().out


def test_it_goes_on_where_it_stopped_and_remembers_a_mismatch(tmp_path, monkeypatch):
    checked = []

    def check(seed: int, number: int) -> list[str]:
        checked.append((seed, number))
        return ["wrong"] if number == 1 else []

    monkeypatch.setattr(soak, "check", check)
    assert run(tmp_path, 1) == 0
    assert run(tmp_path, 3) == 1
    assert run(tmp_path, 5) == 1
    assert checked == [(1, number) for number in range(5)]
    assert json.loads((tmp_path / "state.json").read_text())["found"] == ["wrong"]
    with pytest.raises(SystemExit, match="seed 1, not 2"):
        run(tmp_path, 5, seed=2)
