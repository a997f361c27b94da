"""What `MidasTrainer` keeps beside the weights in a checkpoint."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from midas_aug.errors import MidasAugError

__all__ = ["PARTS", "read_state"]

PARTS = ("criterion", "augment", "confidence")


def _numpy_types() -> list[Any]:
    """What NumPy's arrays and numbers are pickled by."""
    rebuilt = [np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]]
    dtypes = {type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"}
    return [np.ndarray, np.dtype, *rebuilt, *dtypes]


def read_state(path: Path) -> Mapping[str, Any]:
    """What was put into the file ``path``.

    Raises:
        MidasAugError: The file is not there, cannot be read, or lacks one of `PARTS`.
    """
    otherwise = (
        "resume from a checkpoint that is whole, or load the weights into the model and train anew"
    )
    if not path.is_file():
        raise MidasAugError(
            f"expected the file {path}, found none: another trainer wrote the checkpoint, or "
            f"saving was cut short; {otherwise}"
        )
    torch.serialization.add_safe_globals(_numpy_types())  # what a provider's state may hold
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MidasAugError(
            f"expected in {path} what MidasTrainer saved, got a file that cannot be read "
            f"({reason}); {otherwise}"
        ) from error
    if not isinstance(state, Mapping) or not set(PARTS) <= state.keys():
        found = list(state) if isinstance(state, Mapping) else type(state).__name__
        raise MidasAugError(f"expected in {path} the keys {PARTS!r}, got {found!r}; {otherwise}")
    return state
