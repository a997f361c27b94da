"""The installed package works with its core dependencies alone. Run outside of the checkout."""

import importlib.metadata

import torch

from midas_aug import MidasLoss, MisalignAugment, __version__
from midas_aug.diagnostics import diagnose

features = {"audio": torch.randn(8, 4), "video": torch.randn(8, 3)}
labels = torch.arange(8) % 3
unimodal = {name: torch.randn(8, 3) for name in features}
out = MisalignAugment(("audio", "video"), 3)(features, labels, unimodal_logits=unimodal)
loss = MidasLoss(2)(torch.randn(24, 3), out, unimodal)
if not torch.isfinite(loss):
    raise SystemExit(f"expected a finite loss, got {loss}")
report = diagnose(lambda batch: batch["audio"], [{**unimodal, "label": labels}], ("audio", "video"))
if report.scores["cost.video"].value != 0:
    raise SystemExit("a model that does not look at the video needs it")
if importlib.metadata.version("midas-aug") != __version__:
    raise SystemExit("the installed version is not the one that the package names")
print("wheel", __version__, "works:", out)  # noqa: T201
