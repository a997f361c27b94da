"""The command line: ``python -m midas_aug diagnose --logits file.npz``."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from midas_aug import __version__
from midas_aug.errors import MidasAugError

ARRAYS = """\
arrays of the file (numpy.savez), with N rows, C classes, S misaligned rows
and M modalities:
  logits             (N, C)  of the whole model; needed
  labels             (N,)    integers, negative ones are ignored; needed
  removed_<m>        (N, C)  the model with modality m removed (zeros, a mean,
                             the values of other rows)
  alone_<m>          (N, C)  the model with all modalities but m removed
  all_removed        (N, C)  the model with every modality removed (of two
                             modalities: for Shapley)
  head_<m>           (N, C)  a classifier that sees m alone
  training_labels    (T,)    of training rows
  training_head_<m>  (T, C)  the same classifier on these rows: is m memorised?
  misaligned_logits  (S, C)  of rows whose modalities come from rows of
                             different classes
  source_labels      (S, M)  the label of the row that each modality came from
  modalities         (M,)    names; else those in the keys, sorted
Whatever is missing is left out of the report. Softmax outputs can be saved as
their logarithm.

or a table (.csv, .parquet; needs pandas), one column a class, numbered from 0:
  label, logits_0, logits_1, ..., removed_<m>_0, ..., head_<m>_0, ...

With --target, labels are (N, C): probabilities (distribution) or zeros and
ones (multi-label); or (N,) or (N, C) numbers (continuous). Everything else has
as many columns. In a table they are label_0, label_1, ...; one number: label.

examples:
  python -m midas_aug diagnose --logits joint.npz
  python -m midas_aug diagnose --logits tags.csv --target multi-label
  python -m midas_aug diagnose --logits joint.npz --out report.html report.json
"""
COMMANDS = """\
examples:
  python -m midas_aug diagnose --logits joint.npz
  python -m midas_aug diagnose --help
"""


FIGURES = (".png", ".svg", ".pdf")
DRAWN = (*FIGURES, ".html")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        _diagnose(options)
    except MidasAugError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m midas_aug",
        description="What midas_aug can do without any code of yours.",
        epilog=COMMANDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"midas_aug {__version__}",
        help="print the version and exit",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="diagnose")
    diagnose = commands.add_parser(
        "diagnose",
        help="how a model uses its modalities, from saved logits",
        description="How a model uses its modalities, from saved logits: a table, findings,\n"
        "and what to do.",
        epilog=ARRAYS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    diagnose.add_argument(
        "--logits",
        required=True,
        type=Path,
        metavar="FILE",
        help="of saved logits, .npz, .csv or .parquet; see below",
    )
    diagnose.add_argument(
        "--modalities", nargs="+", metavar="NAME", help="in the order of source_labels"
    )
    diagnose.add_argument(
        "--target",
        choices=("class", "distribution", "multi-label", "continuous"),
        default="class",
        metavar="KIND",
        help="what a label is: class (an index), distribution, multi-label or continuous",
    )
    diagnose.add_argument("--name", default="model", help="what the table calls the model")
    diagnose.add_argument(
        "--format", choices=("text", "markdown", "json"), default="text", help="of what is printed"
    )
    diagnose.add_argument(
        "--out",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="write files in place of printing: .txt, .md, .json, .html (with the figure in it), "
        "or the figure as .png, .svg, .pdf (these four need matplotlib)",
    )
    diagnose.add_argument("--overwrite", action="store_true", help="replace files of --out")
    diagnose.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="bootstrap samples (1000)"
    )
    diagnose.add_argument("--seed", type=int, default=0, metavar="N", help="of these samples (0)")
    return parser


def _diagnose(options: argparse.Namespace) -> None:
    from midas_aug.diagnostics import report_from_logits
    from midas_aug.diagnostics.bootstrap import check_numbers, check_seed
    from midas_aug.diagnostics.report import FORMATS
    from midas_aug.diagnostics.saved import read_saved
    from midas_aug.diagnostics.saved_targets import target_called

    check_numbers(**{"--resamples": options.resamples})
    check_seed(options.seed, "--seed")
    for path in options.out:
        _check_output(path, [*FORMATS, *FIGURES], overwrite=options.overwrite)
    saved = read_saved(options.logits)
    report = report_from_logits(
        saved,
        modalities=options.modalities,
        target=target_called(options.target, saved),
        resamples=options.resamples,
        seed=options.seed,
        name=options.name,
    )
    for path in options.out:
        if path.suffix.lower() in FIGURES:
            report.plot(path)
        else:
            report.save(path)
    if not options.out:
        ending = {"text": ".txt", "markdown": ".md", "json": ".json"}[options.format]
        _print(FORMATS[ending](report))


def _print(text: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may not know the sign of ± or α
    try:
        print(text, end="", flush=True)  # noqa: T201
    except BrokenPipeError:  # as in `... | head`: nobody reads on, also not when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_output(path: Path, endings: Sequence[str], *, overwrite: bool) -> None:
    from midas_aug._extras import require
    from midas_aug.diagnostics.outputs import check_output

    check_output(path, endings)
    if path.exists() and not overwrite:
        raise MidasAugError(
            f"expected a new file for --out, got {path}, which is there; name another one, or pass "
            "--overwrite"
        )
    if path.suffix.lower() in DRAWN:
        require("matplotlib", f"the figure of {path}", "diagnostics")


if __name__ == "__main__":
    sys.exit(main())
