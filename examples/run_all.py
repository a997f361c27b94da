"""Run base.py and every with_*.py, and print how long each takes, start-up included.

python examples/run_all.py                 # all of them; those whose extra is missing say so
python examples/run_all.py base with_table
"""

import os
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
RANKS = ("with_ddp", "with_fsdp")


def main(names: list[str]) -> None:
    """Print a table in Markdown."""
    every = ["base", *sorted(script.stem for script in FOLDER.glob("with_*.py"))]
    print("| example | seconds | last line |\n| --- | ---: | --- |", flush=True)
    failed = []
    for name in names or every:
        launcher = TORCHRUN if name in RANKS else []
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *launcher, str(FOLDER / f"{name}.py")],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        seconds = time.perf_counter() - start
        told = [line[line.index("epoch ") :] for line in done.stdout.splitlines() if "misa" in line]
        errors = done.stderr.strip().splitlines() or ["no output"]
        if done.returncode or not told:
            failed.append(name)
        print(f"| {name} | {seconds:.1f} | {told[-1] if told else errors[-1]} |", flush=True)
    if failed:
        sys.exit(f"did not run: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
