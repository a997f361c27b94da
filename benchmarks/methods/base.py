"""What a method is: joint training, and the hooks in which the others differ from it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from benchmarks.common.kinds import CLASSES, Kind
from benchmarks.common.model import ConcatFusion, Features


class EncodedRows(NamedTuple):
    """All training rows in their own order, encoded in eval mode and without gradient."""

    features: Features
    labels: Tensor


# ``(training, held_out) -> logits`` by modality: models trained apart on the first training rows,
# and what they say of the second.
FitApart: TypeAlias = Callable[[Tensor, Tensor], Features]


class Setting(NamedTuple):
    """What a method may know of the run from the start: nothing of validation or test rows."""

    labels: Tensor  # of the training rows
    epochs: int
    encode_training: Callable[[], EncodedRows]  # as the model is now
    kind: Kind = CLASSES  # of the labels
    present: Tensor | None = None  # (N, M) bool: the modalities that a row has; None for all
    present_validation: Tensor | None = None  # of the validation rows
    fit_apart: FitApart | None = None  # where the loop can

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return len(self.labels)


class EpochRows(NamedTuple):
    """The training rows of one epoch, in any order (the loop shuffles them)."""

    rows: Tensor  # (K,) numbers of training rows
    keep: Tensor | None = None  # (K, M) bool: the features of the others are set to 0
    group: Tensor | None = None  # (K,) int64: no batch has two; lower ones come first


@dataclass
class Method:
    """Joint training: the loss of the fused outputs, and nothing else.

    A subclass is a dataclass whose fields are its hyper-parameters, and overrides hooks. The loop
    calls ``setup`` once; ``on_epoch_start`` and ``epoch_rows`` before an epoch; ``on_batch``,
    ``loss``, backward, ``after_backward``, the optimiser's step and ``after_step`` for each batch;
    ``on_epoch_end``, and ``on_validation`` after the epoch's validation.
    Randomness comes from ``self.generator`` alone.
    """

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        """Take the model, and build what the method needs beside it."""
        self.model = model
        self.setting = setting
        self.generator = generator
        self.num_modalities = len(model.modalities)
        self.present: Tensor | None = None  # (B, M) bool, of the batch; None for all

    def extra_modules(self) -> Iterable[nn.Module]:
        """Modules of the method's own that the run's optimiser trains."""
        return ()

    def on_epoch_start(self, epoch: int) -> None:
        """Epochs count from 0."""

    def epoch_rows(self, epoch: int) -> EpochRows:
        """Which rows to train on in this epoch."""
        return EpochRows(torch.arange(self.setting.num_rows))

    def sources(self, epoch: int) -> Tensor | None:
        """``(N, M)`` the training row whose input each modality of a row takes in this epoch.

        None: its own. The label stays that of the row.
        """
        return None

    def on_batch(self, rows: Tensor) -> None:
        """The numbers of the training rows of the next batch."""
        whole = self.setting.present
        self.present = None if whole is None else whole[rows]

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        """The scalar to minimise, from the encoded batch; augmentation happens in here.

        The features of modalities that a row does not have are 0.
        """
        return self.setting.kind.loss(self.model.fuse(features), labels)

    def after_backward(self) -> None:
        """Edit gradients."""

    def after_step(self) -> None:
        """Update what depends on the step."""

    def on_epoch_end(self, epoch: int) -> None:
        """Look at the training rows, where a method does."""

    def on_validation(self, features: Features, labels: Tensor) -> None:
        """Measure something on the validation rows, encoded; nothing is trained on them."""

    def state_dict(self) -> dict[str, Any]:
        """All that ``setup`` does not bring back, for a run that is stopped after any step.

        A method adds what it carries from one step or epoch to the next. What ``on_epoch_start``
        sets is set anew.
        """
        return {
            "generator": self.generator.get_state(),
            "modules": [module.state_dict() for module in self.extra_modules()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; called after ``setup`` and ``on_epoch_start``."""
        self.generator.set_state(state["generator"])
        for module, values in zip(self.extra_modules(), state["modules"], strict=True):
            module.load_state_dict(values)

    def predict(self, features: Features) -> Tensor:
        """Class logits ``(N, C)`` at evaluation, or what outputs the kind of labels has."""
        return self.model.fuse(features)

    def parts(self, features: Features) -> Features:
        """What a weight a modality would multiply: the additive parts u_m of ``predict``."""
        return self.model.parts(features)

    def trained(self, epoch: int) -> bool:
        """Whether ``predict`` means something after this epoch (not within a warm-up)."""
        return True
