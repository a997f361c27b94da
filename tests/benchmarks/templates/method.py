"""A method of the comparison. Copy the class to benchmarks/methods/NAME.py and the tests to
tests/benchmarks/methods/test_NAME.py, rename it, and fill in what fails.

Then: a line in ENTRIES of benchmarks/methods/entries.py, with the one hyper-parameter to tune.
tests/benchmarks/methods/test_every_method.py holds that it stops, resumes and draws as it should.
"""

from dataclasses import dataclass

from benchmarks.methods.base import Method
from tests.benchmarks.methods.helpers import assert_close, set_up, tiny_model, tiny_rows


@dataclass
class NewMethod(Method):
    """What it does, in a sentence (authors, venue), and what was chosen where the source is silent.

    Attributes:
        strength: The hyper-parameter that is tuned.
    """

    strength: float = 0.5

    def loss(self, features, labels):
        raise NotImplementedError("fill in: the loss of a batch; randomness from self.generator")


def in_loops(model, features, labels, strength):
    """The same from its equations, one row after the other."""
    raise NotImplementedError("fill in: the slow reference, which shares no code with the class")


def test_the_loss_is_that_of_the_paper():
    for num_modalities in (2, 3):
        model = tiny_model(num_modalities)
        inputs, labels = tiny_rows(model, 12)
        features = model.encode(inputs)
        loss = set_up(NewMethod(strength=0.3), model).loss(features, labels)
        assert_close(loss, in_loops(model, features, labels, 0.3))


def test_the_loss_reaches_every_encoder():
    model = tiny_model(2)
    inputs, labels = tiny_rows(model, 12)
    set_up(NewMethod(), model).loss(model.encode(inputs), labels).backward()
    assert all(weight.grad is not None for weight in model.encoders.parameters())
