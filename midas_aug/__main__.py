"""The command line: ``python -m midas_aug diagnose --logits file.npz``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from midas_aug.errors import MidasAugError

ARRAYS = """\
arrays of the file (numpy.savez); N rows, C classes, S misaligned rows, M modalities:
  logits             (N, C)  of the whole model; needed
  labels             (N,)    integers, negative ones are ignored; needed
  removed_<m>        (N, C)  the model with modality m removed (zeros, a mean, other rows')
  alone_<m>          (N, C)  the model with all modalities but m removed
  all_removed        (N, C)  the model with every modality removed (two modalities: for Shapley)
  head_<m>           (N, C)  a classifier that sees m alone
  misaligned_logits  (S, C)  of rows whose modalities come from rows of different classes
  source_labels      (S, M)  the label of the row that each modality came from
  modalities         (M,)    names; else those in the keys, in alphabetical order
Whatever is missing is left out of the report. Softmax outputs can be saved as their logarithm.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        print(_diagnose(options))  # noqa: T201
    except MidasAugError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m midas_aug")
    commands = parser.add_subparsers(dest="command", required=True)
    diagnose = commands.add_parser(
        "diagnose",
        help="how a model uses its modalities, from saved logits",
        description="How a model uses its modalities, from saved logits: a table, then findings.",
        epilog=ARRAYS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    diagnose.add_argument("--logits", required=True, type=Path, metavar="FILE.npz")
    diagnose.add_argument(
        "--modalities", nargs="+", metavar="NAME", help="in the order of source_labels"
    )
    diagnose.add_argument("--name", default="model", help="what the table calls the model")
    diagnose.add_argument("--format", choices=("text", "markdown", "json"), default="text")
    diagnose.add_argument("--resamples", type=int, default=1000, help="bootstrap samples")
    diagnose.add_argument("--seed", type=int, default=0)
    return parser


def _diagnose(options: argparse.Namespace) -> str:
    from midas_aug.diagnostics import report_from_logits
    from midas_aug.diagnostics.bootstrap import check_numbers, check_seed

    check_numbers(**{"--resamples": options.resamples})
    check_seed(options.seed, "--seed")
    report = report_from_logits(
        options.logits,
        modalities=options.modalities,
        resamples=options.resamples,
        seed=options.seed,
        name=options.name,
    )
    if options.format == "json":
        return json.dumps(report.to_dict(), indent=2)
    return report.to_markdown() if options.format == "markdown" else str(report)


if __name__ == "__main__":
    sys.exit(main())
