"""Lightning: tell the loss which epoch begins.

Make the augmentation an `midas_aug.integrations.module.AugmentModule` and the loss attributes of
the ``LightningModule``. Then checkpoints hold α and the position of the draw stream, and
``on_after_batch_transfer``, which Lightning also calls in validation, needs no guard.
"""

from typing import Any

from midas_aug.integrations._extras import require
from midas_aug.integrations.module import find_losses

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

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Tell the losses."""
        for criterion in find_losses(pl_module):
            criterion.set_epoch(trainer.current_epoch)
