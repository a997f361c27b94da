"""Lightning: tell the loss which epoch begins, and Lightning how many rows a batch has.

Make the augmentation an `midas_aug.integrations.module.AugmentModule` and the loss attributes of
the ``LightningModule``. Then checkpoints hold α and the position of the draw stream, and
``on_after_batch_transfer``, which Lightning also calls in validation, needs no guard. Where the
hook is a ``LightningDataModule``'s, give both the same `AugmentModule`.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from midas_aug._extras import require
from midas_aug.batch import MisalignedBatch
from midas_aug.errors import MidasAugError
from midas_aug.integrations.logs import attach_log, check_log, detach_log, end_epoch, the_loss
from midas_aug.integrations.module import AugmentModule, find_losses, warn_of_long_warmups

require("lightning", "midas_aug.integrations", "lightning")

from lightning import Callback, LightningModule, Trainer  # noqa: E402

if TYPE_CHECKING:
    from midas_aug.diagnostics import TrainingLog

__all__ = ["MidasCallback"]


class MidasCallback(Callback):
    """Calls ``set_epoch`` of every `MidasLoss` in the module, which ends the warm-up in time.

    ``self.log`` in a step that is given a `MisalignedBatch` weighs it by its N aligned rows, unless
    it is told a ``batch_size``: Lightning itself cannot tell how many rows such a batch has.

    Args:
        log: Has the `TrainingLog` told every training step and the end of every epoch, whose scores
            go to the loggers of the trainer as ``midas/…``. Checkpoints hold it. See `attach_log`.

    Raises:
        MidasAugError: The module has no `MidasLoss`, with a log or several, or the data module an
            `AugmentModule` that the module has not: it would augment in validation, too, and be in
            no checkpoint.

    Example:
        >>> from lightning import Trainer
        >>> from midas_aug.integrations.lightning import MidasCallback
        >>> trainer = Trainer(callbacks=[MidasCallback()], accelerator="cpu", logger=False)
    """

    def __init__(self, log: "TrainingLog | None" = None) -> None:
        super().__init__()
        self.training_log: TrainingLog | None = check_log(log)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand between the steps and ``self.log``."""
        self._log = _Log(pl_module)
        vars(pl_module)["log"] = self._log

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Step aside."""
        vars(pl_module).pop("log", None)
        if self.training_log is not None:
            detach_log(the_loss(pl_module))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, _: Any) -> None:
        """Step aside, as Lightning tears nothing down then."""
        self.teardown(trainer, pl_module, "fit")

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        """Look how many rows there are."""
        self._log.look(batch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Look how many rows there are."""
        self._log.look(batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Look how many rows there are."""
        self._log.look(batch)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what is no part of the module; validation may come before training."""
        _check_data_module(trainer, pl_module)
        if self.training_log is not None:
            attach_log(the_loss(pl_module), self.training_log)
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of a warm-up that lasts as long as the training."""
        warn_of_long_warmups(find_losses(pl_module), *_lengths(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Tell the losses."""
        for criterion in find_losses(pl_module):
            criterion.set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the epoch in the log."""
        if self.training_log is None:
            return
        scores = end_epoch(self.training_log, trainer.current_epoch)
        for logger in trainer.loggers:
            logger.log_metrics(scores, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The log, for checkpoints."""
        return {} if self.training_log is None else {"log": self.training_log.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with the log of a checkpoint."""
        if self.training_log is not None and "log" in state_dict:
            self.training_log.load_state_dict(state_dict["log"])


class _Log:
    """``log`` of a module, which knows the number of rows of a `MisalignedBatch`."""

    def __init__(self, module: LightningModule) -> None:
        self.module = module
        self.n_rows: int | None = None

    def look(self, batch: Any) -> None:
        self.n_rows = len(batch.labels) if isinstance(batch, MisalignedBatch) else None

    def __call__(self, *args: Any, batch_size: int | None = None, **kwargs: Any) -> None:
        n_rows = self.n_rows if batch_size is None else batch_size
        type(self.module).log(self.module, *args, batch_size=n_rows, **kwargs)


def _check_data_module(trainer: Trainer, pl_module: LightningModule) -> None:
    """Refuse an augmentation that does not follow the module from training to validation."""
    data_module = getattr(trainer, "datamodule", None)
    known = set(pl_module.modules())
    for name, value in vars(data_module).items() if data_module is not None else ():
        if isinstance(value, AugmentModule) and value not in known:
            raise MidasAugError(
                f"expected {type(data_module).__name__}.{name} to be a module of "
                f"{type(pl_module).__name__}, too, got an AugmentModule of its own, which would "
                "augment in validation as well; give both the same one"
            )


def _lengths(trainer: Trainer) -> tuple[float, float]:
    """How many epochs and batches the training has at most, as far as it is known."""
    an_epoch = max(trainer.num_training_batches, 1)  # infinity for a stream
    n_epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    n_batches = math.inf
    if trainer.max_steps != -1:
        n_batches = trainer.max_steps * trainer.accumulate_grad_batches
        n_epochs = min(n_epochs, max(1, math.ceil(n_batches / an_epoch)))
    return n_epochs, min(n_batches, n_epochs * an_epoch)
