"""See what a model does with its modalities: joint training, a plain swap and MIDAS on digits.

Trains the three (a few seconds each), diagnoses them on the test rows, prints the comparison, the
findings and what to do, and writes report.html, report.md, report.json and figures.

    python examples/diagnose.py                              # two views of the digits
    python examples/diagnose.py --views fou zer mor          # three views
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

try:
    import digits
    import torch
    import tyro
    from digits import ConcatFusion, Method, Rows
    from torch.nn.functional import cross_entropy

    from midas_aug.diagnostics import (
        ModalityReport,
        TrainingLog,
        diagnose,
        draw_curves,
        draw_hardness,
        draw_shares,
    )
    from midas_aug.functional import gather_rows
except ModuleNotFoundError as error:
    sys.exit(f"the example needs {error.name}: pip install '.[demo,diagnostics]'")


@dataclass(frozen=True)
class Options:
    """Diagnose joint training, a plain swap and MIDAS on handwritten digits."""

    views: tuple[Literal["pix", "fou", "zer", "mor"], ...] = ("pix", "fou")
    """The views to fuse, two or more."""
    epochs: int = 40
    """Epochs of each training."""
    seed: int = 0
    """Of the split, the weights, the order and the draws."""
    out: Path = Path("runs/diagnose")
    """Where the report and the figures go."""


def main() -> None:
    """Train, diagnose, compare."""
    options = tyro.cli(Options)
    if len(set(options.views)) < max(2, len(options.views)) or options.epochs < 1:
        sys.exit("--views takes two or more different views, --epochs starts at 1")
    torch.set_num_threads(1)  # quick enough, and the same numbers on any number of cores
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"--out takes a folder that can be made, got {options.out}: {error.strerror}")
    reports = []
    for name in ("joint", "plain swap", "MIDAS"):
        model, log, training, test = train(digits.METHODS[name], options)
        reports.append(look(name, model, log, training, test))
        draw_curves(log, options.out / f"curves-{name.replace(' ', '-')}.png")
    draw_hardness(log, options.out / "hardness.png")  # of MIDAS, the last
    draw_shares(log, options.out / "shares.png")

    comparison = reports[0].compare(*reports[1:])
    comparison.plot(options.out / "report.png")
    found = "\n\n".join(findings(report) for report in reports)
    print(comparison, found, sep="\n\n")
    (options.out / "report.md").write_text(f"{comparison.to_markdown()}\n{found}\n", "utf-8")
    for ending in ("html", "json"):
        comparison.save(options.out / f"report.{ending}")
    print(f"\nWritten: {', '.join(str(file) for file in sorted(options.out.iterdir()))}")


def train(method: Method, options: Options) -> tuple[ConcatFusion, TrainingLog, Rows, Rows]:
    """The loop of digits.py, with a log: the lines marked New are all that it takes."""
    setup = digits.prepare(method, options.views, options.seed, options.epochs)
    rows, model, criterion = setup.training, setup.model, setup.criterion
    log = TrainingLog(options.views)  # New

    for epoch in range(options.epochs):
        criterion.set_epoch(epoch)
        for batch in setup.batches():
            features = model.encode(gather_rows(rows.views, batch))
            unimodal = model.classify(features)
            out = setup.augment(features, rows.labels[batch], unimodal_logits=unimodal)
            logits = model.fuse(out)
            terms = criterion.compute(logits, out, unimodal_logits=unimodal)
            log.update(out, logits=logits, terms=terms, criterion=criterion)  # New
            loss: Any = terms.total
            if method.unimodal_weight == 0:
                loss = loss + probe(model, features, rows.labels[batch])

            setup.optimizer.zero_grad()
            loss.backward()
            setup.optimizer.step()
        log.end_epoch(epoch)  # New
    return model, log, rows, setup.test


def probe(model: ConcatFusion, features: Any, labels: torch.Tensor) -> torch.Tensor:
    """Train heads beside a method that has none, without a say in the features.

    The diagnosis can then tell a view that is ignored from one that has nothing to say.
    """
    heads = model.classify({view: feature.detach() for view, feature in features.items()})
    return torch.stack([cross_entropy(logits, labels) for logits in heads.values()]).sum()


def look(
    name: str, model: ConcatFusion, log: TrainingLog, training: Rows, test: Rows
) -> ModalityReport:
    """Diagnose at feature level: an encoder, a fusion, and each view's own head."""
    return diagnose(
        (model.encode, model.fuse),
        [{**test.views, "label": test.labels}],
        list(test.views),
        unimodal=model.classify,
        training=[{**training.views, "label": training.labels}],
        log=log,
        name=name,
    )


def findings(report: ModalityReport) -> str:
    """What the report says in plain language, and what to do."""
    found = [f"- {finding.text}" for finding in report.findings]
    steps = [f"{number}. {advice.text}" for number, advice in enumerate(report.advice, start=1)]
    return "\n".join([f"{report.name}:", *found, "", *steps])


if __name__ == "__main__":
    main()
