"""A run that was stopped and resumed is the run that was not, bit for bit."""

import io

import pytest
import torch
from torch import nn

from midas_aug import MidasLoss, MisalignAugment, WeakModalityWeight
from midas_aug.confidence import PrototypeConfidence

ROWS, CLASSES = 24, 5
DIMS = {"a": 8, "b": 8}


class Run:
    """All the state of a training run."""

    def __init__(self, confidence: str) -> None:
        torch.manual_seed(0)
        self.model = nn.ModuleDict(
            {
                "a": nn.Linear(4, 8),
                "b": nn.Linear(6, 8),
                "head_a": nn.Linear(8, CLASSES),
                "head_b": nn.Linear(8, CLASSES),
                "fusion": nn.Linear(16, CLASSES),
                "criterion": MidasLoss(
                    2, weak_modality=WeakModalityWeight(2, step_size=0.3), warmup_epochs=1
                ),
            }
        )
        if confidence == "prototypes":
            self.model["prototypes"] = PrototypeConfidence(DIMS, CLASSES)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        provider = self.model["prototypes"] if confidence == "prototypes" else confidence
        self.augment = MisalignAugment(("a", "b"), CLASSES, confidence=provider, seed=7)

    def train(self, steps: range) -> list[list[float]]:
        history = []
        for step in steps:
            data = torch.Generator().manual_seed(step)
            labels = torch.randint(CLASSES, (ROWS,), generator=data)
            signal = 3.0 * nn.functional.one_hot(labels, CLASSES)[:, :4]  # b is noise
            features = {
                "a": self.model["a"](signal + torch.randn(ROWS, 4, generator=data)),
                "b": self.model["b"](torch.randn(ROWS, 6, generator=data)),
            }
            if "prototypes" in self.model:
                self.model["prototypes"].update(features, labels)
            self.model["criterion"].set_epoch(step // 4)
            unimodal = {name: self.model[f"head_{name}"](features[name]) for name in features}
            out = self.augment(features, labels, unimodal_logits=unimodal)
            logits = self.model["fusion"](torch.cat([out["a"], out["b"]], dim=1))
            loss = self.model["criterion"](logits, out, unimodal)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            history.append([loss.item(), *self.model["criterion"].weak_modality.alpha.tolist()])
        return history

    def parts(self) -> dict:
        return {"model": self.model, "optimizer": self.optimizer, "augment": self.augment}

    def save(self) -> bytes:
        file = io.BytesIO()
        torch.save({name: part.state_dict() for name, part in self.parts().items()}, file)
        return file.getvalue()

    def load(self, checkpoint: bytes) -> None:
        states = torch.load(io.BytesIO(checkpoint), weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(states[name])


@pytest.mark.parametrize("confidence", ["logits", "prototypes"])
@pytest.mark.parametrize("stop", [2, 4, 7])
def test_a_resumed_run_equals_an_uninterrupted_one(confidence, stop):
    whole = Run(confidence)
    expected = whole.train(range(16))
    begun = Run(confidence)
    history = begun.train(range(stop))
    resumed = Run(confidence)
    resumed.load(begun.save())
    history += resumed.train(range(stop, 16))
    assert history == expected
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert max(max(alpha) for _, *alpha in expected) > 1  # there was something to get wrong
