"""Settings of all tests: one thread, quick Hypothesis runs without a clock, fixed seeds."""

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("midas_aug", deadline=None, max_examples=50)
settings.register_profile("smoke", deadline=None, max_examples=10)
settings.load_profile("midas_aug")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
