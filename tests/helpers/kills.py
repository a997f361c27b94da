"""Kill a process while it saves a file."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
Stage = Literal["half", "whole", "placed"]

# What a killed process does first: the n-th file that it saves is its last. Nothing runs after the
# kill: no handler, no `finally`.
_PREPARE = """
import os, signal
number, stage, ending, saved = {number}, {stage!r}, {ending!r}, []
fsync, replace = os.fsync, os.replace

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def synced(descriptor):
    name = os.readlink(f"/proc/self/fd/{{descriptor}}")
    if ending in name:
        saved.append(name)
        if len(saved) == number and stage == "half":
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die()
    fsync(descriptor)

def replaced(source, target):
    last = ending in str(source) and len(saved) == number
    if last and stage == "whole":
        die()
    replace(source, target)
    if last:
        die()

os.fsync, os.replace = synced, replaced
"""


def run_until_killed(program: str, number: int, stage: Stage, ending: str = ".tmp") -> int:
    """Run a program that is killed in its n-th save; its exit status.

    Args:
        program: Python source.
        number: Of the save, from 1.
        stage: When: half of the file is written beside its place, all of it is, or it is in place.
        ending: Only files whose temporary name contains this are counted.
    """
    source = _PREPARE.format(number=number, stage=stage, ending=ending) + program
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", source]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
