"""Fetch data, run a suite, write its tables and figures.

python -m benchmarks fetch all            # or digits, openmoji, stamps, watch, brca, kanji, …
python -m benchmarks run --suite quick    # or full, or skill; a stopped one goes on where it was
python -m benchmarks report --suite full  # from the kept runs alone
python -m benchmarks freeze full          # the kept runs as one file, results/full/runs.jsonl
python -m benchmarks speed                # pairing, swap, loss, steps: ratios and goals
python -m benchmarks diagnose openmoji    # what joint training, plain swap and MIDAS listen to

The paper's own data sets, from where you have them:

python -m benchmarks check cremad --root DIR        # is the copy whole?
python -m benchmarks reproduce cremad --root DIR    # the paper's protocol; its numbers and ours
python -m benchmarks sample cremad DIR              # a small made-up copy, to try the two on
python -m benchmarks throughput                     # does reading keep up with training?
"""

import sys

INSTALL = "pip install '.[bench]' in the checkout"


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and perform the command; help needs no extra."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        from benchmarks import command_line
    except ModuleNotFoundError as error:
        if not given or {"-h", "--help"} & set(given):
            print(f"{__doc__}\nThe commands and their options need {error.name}: {INSTALL}")  # noqa: T201
            return
        sys.exit(_missing(error))
    command = command_line.parse(arguments, __doc__)
    try:
        from benchmarks import actions
    except ModuleNotFoundError as error:
        sys.exit(_missing(error))
    actions.perform(command)


def _missing(error: ModuleNotFoundError) -> str:
    if (error.name or "").split(".")[0] in ("benchmarks", "midas_aug"):  # not an extra: a fault
        raise error
    return f"the benchmarks need {error.name}: {INSTALL}"


if __name__ == "__main__":
    main()
