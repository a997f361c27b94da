"""The Hugging Face ``Trainer``.

Feature level: a model that augments in its ``forward`` and gives its own loss needs `MidasCallback`
and the stock ``Trainer``. Input level: `MidasTrainer` augments the training batches of a model that
is left as it is.
"""

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from midas_aug._extras import require
from midas_aug._files import write_atomically
from midas_aug.augment import MisalignAugment
from midas_aug.confidence import TableConfidence
from midas_aug.confidence.base import LogitProvider
from midas_aug.errors import MidasAugError
from midas_aug.integrations._checkpoint import PARTS, read_state
from midas_aug.integrations._inputs import MISALIGNED, InputCollate, inputs_by_modality
from midas_aug.integrations.logs import attach_log, check_log, detach_log, end_epoch, the_loss
from midas_aug.integrations.module import (
    check_augment,
    check_criterion,
    find_losses,
    warn_of_long_warmups,
)
from midas_aug.loss import MidasLoss

require("transformers", "midas_aug.integrations", "huggingface")
require("accelerate", "midas_aug.integrations", "huggingface")

from accelerate.data_loader import DataLoaderDispatcher  # noqa: E402
from transformers import Trainer, TrainerCallback  # noqa: E402
from transformers.trainer_utils import (  # noqa: E402
    PREFIX_CHECKPOINT_DIR,
    get_last_checkpoint,
    has_length,
)

if TYPE_CHECKING:
    from midas_aug.diagnostics import TrainingLog

__all__ = ["MidasCallback", "MidasTrainer"]

STATE = "midas_aug.pt"


class _Epochs(TrainerCallback):
    """Tells the losses the epoch, and a log what they did."""

    def __init__(self, log: "TrainingLog | None", criterion: MidasLoss | None = None) -> None:
        self._log, self._criterion = check_log(log), criterion
        self._epoch = 0

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Have the loss tell its steps."""
        if self._log is not None:
            attach_log(self._criterion or the_loss(model), self._log)

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Tell the losses."""
        self._epoch = _epoch(state)
        for criterion in [self._criterion] if self._criterion else find_losses(model):
            criterion.set_epoch(self._epoch)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the epoch in the log."""
        if self._log is not None:
            scores = end_epoch(self._log, self._epoch)
            state.log_history.append({**scores, "epoch": state.epoch, "step": state.global_step})

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Leave the loss as it was."""
        if self._log is not None:
            detach_log(self._criterion or the_loss(model))


class MidasCallback(_Epochs):
    """Calls ``set_epoch`` of every `MidasLoss` in the model, which ends the warm-up in time.

    Let the model own its loss and its augmentation
    (`midas_aug.integrations.module.AugmentModule`): both are then in every checkpoint.

    Args:
        log: Has the `TrainingLog` told every training step and the end of every epoch. Its scores
            go into ``trainer.state.log_history`` as ``midas/…``, and so into checkpoints. What
            ``report_to`` names gets them from `TrainingLog.to_tensorboard` and ``to_wandb``.

    Raises:
        MidasAugError: The model has no `MidasLoss`, with a log or several; or its ``forward`` takes
            ``**kwargs`` while gradients are accumulated or several devices train: the ``Trainer``
            reads that as a promise that the model scales its loss itself, and would not divide the
            mean that `MidasLoss` is, or would multiply it by the devices; or the warm-up is in
            epochs, which the ``Trainer`` does not count in a stream.

    Example:
        >>> from midas_aug.integrations.huggingface import MidasCallback
        >>> callbacks = [MidasCallback()]  # Trainer(model, ..., callbacks=callbacks)
    """

    def __init__(self, log: "TrainingLog | None" = None) -> None:
        super().__init__(log)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **given: Any
    ) -> None:
        """Refuse a loss that would be scaled wrongly, and a warm-up that would not end."""
        _check_warmups(find_losses(model), args, state, given.get("train_dataloader"))
        _check_scaling(_without_adapters(model), args)
        super().on_train_begin(args, state, control, model)


class MidasTrainer(Trainer):
    """A ``Trainer`` that misaligns its training batches and trains on the soft labels.

    Evaluation batches stay as they are. In training the model gets its own inputs without labels,
    so that its own loss, which takes integers, is out of the way; the loss is `MidasLoss` on
    ``outputs.logits``. It is a mean over rows, and scaled for gradient accumulation once. A
    checkpoint holds α, the position of the draw stream and the state of the confidence; a run that
    is resumed from the end of an epoch draws what it would have drawn (in the middle of one,
    batches were drawn ahead). With ``model_init``, as in a hyper-parameter search, ``train`` begins
    with a new model, and with the criterion, the draws and the confidence as they were before the
    first ``train``.

    The data set index of a `TableConfidence` stays in the samples until the batch is labelled.
    Inputs that the model's ``forward`` does not take are left out of training batches, also with
    ``remove_unused_columns=False``, which a confidence of your own needs to read further keys.

    Args:
        args: As for ``Trainer``, with all that comes after them.
        augment: The augmentation, with a confidence that needs no model. ``label`` names the labels
            that the ``data_collator`` gives, mostly ``"labels"``.
        inputs: For each modality the input of the model that belongs to it, or several, such as
            ``{"image": "pixel_values", "text": ["input_ids", "attention_mask"]}``. None: the keys
            of the augmentation, which is built with such a mapping or with the inputs themselves.
        criterion: None is ``MidasLoss(len(augment.modalities))``.
        log: As in `MidasCallback`.
        kwargs: As for ``Trainer``.

    Raises:
        MidasAugError: The confidence needs a model, the criterion warms up, an option of the
            ``Trainer`` does not go with soft labels, or batches are dispatched to several
            processes.
    """

    data_collator: Any
    loss_is_scaled_for_ga = False  # a mean over rows; the Trainer divides it by the steps

    def __init__(
        self,
        *args: Any,
        augment: MisalignAugment,
        inputs: Mapping[Any, str | Sequence[str]] | None = None,
        criterion: MidasLoss | None = None,
        log: "TrainingLog | None" = None,
        **kwargs: Any,
    ) -> None:
        self.augment = check_augment(augment)
        self.criterion = check_criterion(criterion, augment.modalities)
        super().__init__(*args, **kwargs)
        self.criterion.to(self.args.device)
        self.collate_inputs: Mapping[Any, Sequence[str]] = inputs_by_modality(inputs, augment)
        if augment.needs_model:
            raise MidasAugError(
                f"expected a confidence that needs no model, got {augment.confidence!r}; choose "
                "'uniform' or a TableConfidence, or augment in the model's forward (MidasCallback)"
            )
        if self.args.label_smoothing_factor:
            raise MidasAugError(
                f"expected label_smoothing_factor=0, got {self.args.label_smoothing_factor}: it "
                "gathers by integer labels, and misaligned rows have soft ones; build the "
                "augmentation with target=midas_aug.targets.ClassIndex(C, label_smoothing=...)"
            )
        if self.compute_loss_func is not None:
            raise MidasAugError(
                "expected no compute_loss_func, got one: MidasTrainer computes the loss; pass "
                "criterion=..., or use the stock Trainer and a model that augments in its forward"
            )
        if self.criterion.warmup_epochs or self.criterion.warmup_steps:
            raise MidasAugError(
                "expected a criterion without a warm-up, got a MidasLoss with one: it trains "
                "unimodal heads, and MidasTrainer has no logits of any; augment in the model's "
                "forward (MidasCallback)"
            )
        self._first: dict[str, Any] | None = None  # the state before the first training
        self.add_callback(_Epochs(log, self.criterion))

    def get_train_dataloader(self) -> Any:
        """The training loader, with batches that are misaligned; no other loader has them."""
        plain, drops = self.data_collator, self.args.remove_unused_columns
        model = _without_adapters(self.model)
        taken = set(inspect.signature(model.forward).parameters)
        # What the augmentation reads is no input of the model; the Trainer would drop it too early.
        read = set(self.augment.keep)
        if not callable(self.augment.label):
            read.add(self.augment.label)
        confidence = self.augment.confidence
        if isinstance(confidence, TableConfidence):
            read.add(confidence.index)
        elif isinstance(confidence, LogitProvider):  # of logits that the batch brings
            read |= set(confidence.modalities)
        if self.augment.present is not None and not callable(self.augment.present):
            read.add(self.augment.present)
        kept: set[Any] | None = None
        if drops and read - taken:
            labels = {*self.label_names, "label", "label_ids"}
            kept = taken | read | labels
        self.data_collator = InputCollate(
            self.augment,
            plain,
            self.collate_inputs,
            kept=kept,
            taken=None if _takes_any(model) and not drops else taken,
        )
        self.args.remove_unused_columns = drops and kept is None
        try:
            loader = super().get_train_dataloader()
        finally:
            self.data_collator, self.args.remove_unused_columns = plain, drops
        _check_dispatch(loader, self.args.world_size)
        return loader

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; a checkpoint brings back α, the draws and the confidence, too.

        Raises:
            MidasAugError: The file with these is missing in the checkpoint, damaged, or of other
                settings.
        """
        if self.model_init is not None:  # the Trainer is about to make a new model
            if self._first is None:
                self._first = copy.deepcopy(self._state())
            else:
                self._load(self._first)
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
        if folder:
            path = Path(folder, STATE)
            state = read_state(path)
            try:
                self._load(state)
            except (KeyError, TypeError, RuntimeError, MidasAugError) as error:
                raise MidasAugError(
                    f"expected in {path} the state of this criterion, augment and confidence, got "
                    f"one that does not fit ({error}); resume with those that the checkpoint was "
                    "written with"
                ) from error
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Save the model, and in a checkpoint α, the draws and the confidence beside it."""
        super().save_model(output_dir, *args, **kwargs)
        folder = Path(output_dir or self.args.output_dir)
        if folder.name.startswith(PREFIX_CHECKPOINT_DIR) and self.args.should_save:
            state = self._state()
            write_atomically(folder / STATE, lambda file: torch.save(state, file))

    def _parts(self) -> list[tuple[str, Any]]:
        parts = (self.criterion, self.augment, self.augment.confidence)
        return list(zip(PARTS, parts, strict=True))

    def _state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts()}

    def _load(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts():
            part.load_state_dict(state[name])

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """`MidasLoss` of a training batch; the model's own loss of any other."""
        if MISALIGNED not in inputs:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        out = inputs[MISALIGNED]
        skipped = (MISALIGNED, self.augment.label)
        outputs = model(**{key: value for key, value in inputs.items() if key not in skipped})
        loss = self.criterion(_logits_in(outputs, model), out)
        return (loss, outputs) if return_outputs else loss


def _logits_in(outputs: Any, model: nn.Module) -> Tensor:
    """What a model predicts: under the name logits, or the first array with rows."""
    if isinstance(outputs, Mapping):
        found, has = outputs.get("logits"), f"the keys {list(outputs)!r}"
    elif hasattr(outputs, "logits"):
        found, has = outputs.logits, "none"
    else:
        items = outputs if isinstance(outputs, list | tuple) else (outputs,)
        found = next((item for item in items if isinstance(item, Tensor) and item.ndim > 0), None)
        has = f"a {type(outputs).__name__}"
    if not isinstance(found, Tensor):
        raise MidasAugError(
            f"expected a model that returns logits, got {has} from {type(model).__name__}; give "
            "its output the key 'logits', or make them the first item of a tuple"
        )
    return found


def _without_adapters(model: Any) -> Any:
    """What a PEFT wrapper, whose own forward takes anything, was put around."""
    is_wrapper = hasattr(model, "peft_config") and callable(getattr(model, "get_base_model", None))
    return model.get_base_model() if is_wrapper else model


def _takes_any(model: Any) -> bool:
    parameters = inspect.signature(model.forward).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _check_dispatch(loader: Any, n_processes: int) -> None:
    """Refuse a loader that hands parts of a misaligned batch to several processes."""
    if n_processes > 1 and isinstance(loader, DataLoaderDispatcher):
        raise MidasAugError(
            f"expected each of the {n_processes} processes to make its own batches, got a loader "
            "that dispatches parts of them, as the Trainer's does by default with an "
            "IterableDataset; pass TrainingArguments(accelerator_config={'dispatch_batches': "
            "False})"
        )


def _check_scaling(model: nn.Module, args: Any) -> None:
    """Refuse a model that the Trainer takes to scale its loss itself."""
    if not getattr(model, "accepts_loss_kwargs", _takes_any(model)):
        return
    n_devices = max(args.world_size, args.n_gpu)
    if args.gradient_accumulation_steps > 1:
        several = f"the {args.gradient_accumulation_steps} steps that are accumulated"
    elif n_devices > 1 and args.average_tokens_across_devices:
        several = f"the {n_devices} processes or devices that train together"
    else:
        return
    raise MidasAugError(
        f"expected a model whose loss the Trainer scales for {several}, got "
        f"{type(model).__name__}, whose forward takes **kwargs: a promise that the model does it; "
        "set accepts_loss_kwargs = False in the model's class"
    )


def _check_warmups(losses: Sequence[MidasLoss], args: Any, state: Any, loader: Any) -> None:
    """Refuse a warm-up in epochs of a stream, and warn of one that is too long."""
    for criterion in losses:
        if criterion.warmup_epochs and loader is not None and not has_length(loader):
            raise MidasAugError(
                "expected a warm-up in steps for a data set without a length, whose epochs the "
                f"Trainer does not count, got warmup_epochs={criterion.warmup_epochs}; build "
                "MidasLoss(..., warmup_steps=...)"
            )
    n_batches = state.max_steps * args.gradient_accumulation_steps
    warn_of_long_warmups(losses, state.num_train_epochs, n_batches)


def _epoch(state: Any) -> int:
    """The epoch that begins; the Trainer counts in fractions, and 0.9999999 is the end of one."""
    return math.floor((state.epoch or 0) + 1e-6)
