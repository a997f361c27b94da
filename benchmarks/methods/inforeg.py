"""InfoReg: hold the modality that is ahead to where its epoch began, early in training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.model import ConcatFusion, Features
from benchmarks.methods.base import Setting
from benchmarks.methods.shared import ComparingMethod, label_scores, stack, summed_cross_entropy


def window_growth(traces: Sequence[float], span: int) -> float:
    """Relative growth of the mean of the last ``span`` traces over that of those one epoch earlier.

    Epochs before the first one have a trace of 0. Infinite before there is any.
    """
    now = math.fsum(traces[-span:])
    before = math.fsum(traces[:-1][-span:])
    return (now - before) / now if now > 0 else math.inf


def pull(scores: Tensor, beta: float) -> tuple[int, float]:
    """The modality that is ahead, and a = exp(β tanh(gap)), of scores ``(M,)``.

    The gap is from its score to the mean of the others.
    """
    ahead = int(scores.argmax())
    others = (scores.sum() - scores[ahead]) / (len(scores) - 1)
    return ahead, math.exp(beta * math.tanh(float(scores[ahead] - others)))


@dataclass
class InfoReg(ComparingMethod):
    """InfoReg with unimodal losses (CVPR 2025): CE(z, y) + Σ_m CE(h_m, y), and a term in gradients.

    In the prime learning window, the encoder that is ahead in the batch gets a (w − w₀) added to
    its gradient, w₀ its weights at the start of the epoch. The window of an encoder is open while
    the trace of its Fisher information grows by more than ``threshold`` an epoch. The trace is the
    squared norm of the encoder's gradient, before the term is added, averaged over the steps of an
    epoch.

    Scores are the summed probabilities of the labels, of the heads h_m. As in the released code,
    growth is that of a mean over the last epochs, an eighth of all (10 of 80), in which epochs
    before the first count as 0: the window is at least that long.

    Ours: every encoder has a window of its own, where the code watches one of two; with three
    modalities or more, the gap to the mean of the others. The code has β exp(tanh(gap)) for a, and
    a threshold of 0.04; these are the paper's.

    Attributes:
        beta: β: 0.9 to 0.95 in the source.
        threshold: K: 0.05.
        span: Epochs of the mean, as a fraction of all.
    """

    beta: float = 0.95
    threshold: float = 0.05
    span: float = 1 / 8

    def setup(self, model: ConcatFusion, setting: Setting, generator: torch.Generator) -> None:
        super().setup(model, setting, generator)
        self._encoders = [[*model.encoders[name].parameters()] for name in model.modalities]
        self._traces: list[list[float]] = [[] for _ in self._encoders]  # by modality, then epoch
        self._sums = [0.0] * self.num_modalities  # of this epoch's squared norms
        self._steps = 0
        self._starts: list[list[Tensor]] = []

    def on_epoch_start(self, epoch: int) -> None:
        super().on_epoch_start(epoch)
        self._starts = [[p.detach().clone() for p in encoder] for encoder in self._encoders]
        span = max(1, round(self.span * self.setting.epochs))
        self._open = [window_growth(traces, span) > self.threshold for traces in self._traces]

    def loss(self, features: Features, labels: Tensor) -> Tensor:
        heads = stack(self.model.classify(features))
        self._ahead, self._pull = pull(label_scores(heads.detach(), labels), self.beta)
        return super().loss(features, labels) + summed_cross_entropy(heads, labels)

    @torch.no_grad()
    def after_backward(self) -> None:
        for number, encoder in enumerate(self._encoders):
            gradients = [p.grad for p in encoder if p.grad is not None]
            self._sums[number] += math.fsum(float(g.square().sum()) for g in gradients)
        self._steps += 1
        if not self._open[self._ahead]:
            return
        pairs = zip(self._encoders[self._ahead], self._starts[self._ahead], strict=True)
        for parameter, start in pairs:
            if parameter.grad is not None:
                parameter.grad += self._pull * (parameter - start)

    def on_epoch_end(self, epoch: int) -> None:
        for traces, total in zip(self._traces, self._sums, strict=True):
            traces.append(total / max(1, self._steps))
        self._sums, self._steps = [0.0] * self.num_modalities, 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "traces": [list(traces) for traces in self._traces],
            "sums": list(self._sums),
            "steps": self._steps,
            "starts": self._starts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._traces = [list(traces) for traces in state["traces"]]
        self._sums, self._steps = list(state["sums"]), state["steps"]
        self.on_epoch_start(self.epoch)
        self._starts = state["starts"]
