"""Lightning: tell the loss which epoch begins.

Make the augmentation an `midas_aug.integrations.module.AugmentModule` and the loss attributes of
the ``LightningModule``. Then checkpoints hold α and the position of the draw stream, and
``on_after_batch_transfer``, which Lightning also calls in validation, needs no guard.
"""

import math
from typing import Any

from midas_aug.integrations._extras import require
from midas_aug.integrations.module import find_losses, warn_of_long_warmups

require("lightning", "lightning")

from lightning import Callback, LightningModule, Trainer  # noqa: E402

__all__ = ["MidasCallback"]


class MidasCallback(Callback):
    """Calls ``set_epoch`` of every `MidasLoss` in the module, which ends the warm-up in time.

    Example:
        >>> from lightning import Trainer
        >>> from midas_aug.integrations.lightning import MidasCallback
        >>> trainer = Trainer(callbacks=[MidasCallback()], accelerator="cpu", logger=False)
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module whose loss is not a part of it; validation may come before training."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of a warm-up that lasts as long as the training."""
        warn_of_long_warmups(find_losses(pl_module), *_lengths(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Tell the losses."""
        for criterion in find_losses(pl_module):
            criterion.set_epoch(trainer.current_epoch)


def _lengths(trainer: Trainer) -> tuple[float, float]:
    """How many epochs and batches the training has at most, as far as it is known."""
    an_epoch = max(trainer.num_training_batches, 1)  # infinity for a stream
    n_epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    n_batches = math.inf
    if trainer.max_steps != -1:
        n_batches = trainer.max_steps * trainer.accumulate_grad_batches
        n_epochs = min(n_epochs, max(1, math.ceil(n_batches / an_epoch)))
    return n_epochs, min(n_batches, n_epochs * an_epoch)
