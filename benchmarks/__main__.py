"""Fetch data, run a suite, write its tables and figures.

python -m benchmarks fetch all            # or digits, openmoji, watch, …
python -m benchmarks run --suite quick    # goes on where it was stopped
python -m benchmarks report --suite full  # from the kept runs alone
python -m benchmarks freeze full          # publish: runs, tables, figures
python -m benchmarks speed                # pairing, swap, loss, steps, goals
python -m benchmarks diagnose openmoji    # what three models listen to
python -m benchmarks probes               # what their encoders have learned

Everything is written into runs/, or where --out says; `freeze` alone
writes into benchmarks/results, where the published results are.

The paper's own data sets, from where you have them:

python -m benchmarks prepare cremad --root DIR    # sound, frames out of videos
python -m benchmarks check cremad --root DIR      # is the copy whole?
python -m benchmarks reproduce cremad --root DIR  # the paper's protocol
python -m benchmarks sample cremad DIR            # a small made-up copy
python -m benchmarks throughput                   # does reading keep up?

The options of a command: python -m benchmarks run --help
"""

import re
import sys

import midas_aug

INSTALL = "pip install '.[bench]' in the checkout"


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and perform the command; help needs no extra."""
    given = sys.argv[1:] if arguments is None else arguments
    asks_for_help = given[:1] in ([], ["-h"], ["--help"])
    if given[:1] == ["--version"]:
        print(f"midas_aug {midas_aug.__version__}")  # noqa: T201
        return
    try:
        from benchmarks import command_line
    except ModuleNotFoundError as error:
        if asks_for_help or {"-h", "--help"} & set(given):
            print(f"{__doc__}\nThe commands need {error.name}: {INSTALL}")  # noqa: T201
            return
        sys.exit(_missing(error))
    if asks_for_help:
        print(__doc__)  # noqa: T201 - tyro would run the lines of the examples together
    command = command_line.parse(arguments)
    try:
        from benchmarks import actions

        actions.perform(command)  # much is imported only where it is needed
    except ModuleNotFoundError as error:
        sys.exit(_missing(error))


def _missing(error: ModuleNotFoundError) -> str:
    # A DataLoader's worker hands over the text of its error alone.
    told = re.search(r"No module named '([\w.]+)'", str(error))
    name = error.name or (told[1] if told else "")
    if name.split(".")[0] in ("", "benchmarks", "midas_aug"):  # not an extra: a fault
        raise error
    return f"the benchmarks need {name}: {INSTALL}"


if __name__ == "__main__":
    main()
