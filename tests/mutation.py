"""How many planted faults do the tests of the core find? A sample of mutants, one run each.

    pip install cosmic-ray  # names the mutations
    python -m tests.mutation [--sample 30] [--seed 0] [--only functional/plan.py] [--again]

The same seed draws the same mutants of the same source: places first, then one mutation a place.
Each runs in a fork, on a copy of the tree, against the tests named in `TESTS` alone, until one
fails. Docstrings, annotations, ``raise`` statements and lists of names are not mutated. What is
done is kept in ``runs/mutation.json``: a run that was stopped goes on, and ``--again`` tries the
survivors once more, after a new test. Nobody reads an exit status: look at the survivors.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "runs" / "mutation.json"
SECONDS = 120.0

_IMPORTED_BY_TESTS = (
    "torch._dynamo",
    "torch.distributed",
    "torch.multiprocessing",
    "scipy.stats",
    "scipy.optimize",
    "tensordict",
    "transformers",
    "hypothesis",
)

# One failure is enough: no time for the smallest one.
_PROFILE = """
from hypothesis import Phase

settings.register_profile(
    "mutation",
    deadline=None,
    max_examples=10,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
"""

_BATCH = ("test_augment.py", "test_batch.py", "test_logits.py", "test_shared.py")
_LOSS = ("test_loss.py", "test_replayed.py", "test_state.py", "test_resume.py")

# The tests that each file of the core has to be held by, those that know it best first.
TESTS = {
    "functional/hard_samples.py": ("functional/test_hard_samples.py", "test_augment.py"),
    "functional/losses.py": ("functional/test_losses.py",),
    "functional/metrics.py": ("functional/test_metrics.py",),
    "functional/pairing.py": ("functional/test_pairing.py", "functional/test_plan.py"),
    "functional/plan.py": ("functional/test_plan.py", "test_augment.py"),
    "functional/ratio_rule.py": (
        "functional/test_ratio_rule.py",
        "functional/test_weak_modality.py",
        "test_loss.py",
    ),
    "functional/shares.py": ("functional/test_shares.py", "functional/test_losses.py"),
    "functional/skill.py": ("test_skill.py", "functional/test_shares.py"),
    "functional/weak_modality.py": ("functional/test_weak_modality.py", "test_loss.py"),
    "targets.py": ("test_batch.py", "test_augment.py", "test_logits.py", "test_loss.py"),
    "loss.py": _LOSS,
    "weak_modality.py": (
        *_LOSS,
        "functional/test_weak_modality.py",
        "functional/test_ratio_rule.py",
    ),
    "_drawn.py": (*_BATCH, "test_shared.py"),
    "_labelling.py": (*_BATCH, "test_replayed.py", "test_loss.py"),
    "_draws.py": ("functional/test_pairing.py", "functional/test_plan.py", "test_resume.py"),
    "_stream.py": ("test_augment.py", "test_resume.py", "test_state.py", "test_replayed.py"),
    "_rows.py": ("test_rows.py", "functional/test_shares.py", *_BATCH),
    "batch.py": ("test_batch.py", "test_augment.py", "test_logits.py", "test_loss.py"),
    "augment.py": ("test_augment.py", "test_batch.py", "test_replayed.py", "test_resume.py"),
    "factored.py": ("test_factored.py",),
}

Place = tuple[tuple[int, int], tuple[int, int]]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--sample", type=int, default=30, help="mutants a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(TESTS), help="files below midas_aug")
    parser.add_argument("--again", action="store_true", help="try survivors once more")
    given = parser.parse_args(arguments)
    KEPT.parent.mkdir(exist_ok=True)
    results = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        _copy_tree(copy)
        for name in given.only:
            _score(copy, name, given.sample, given.seed, given.again, results)


def _score(
    copy: Path, name: str, size: int, seed: int, again: bool, results: dict[str, str]
) -> None:
    """Run the sampled mutants of one file, and print what survived."""
    path = copy / "midas_aug" / name
    source = path.read_text()
    digest = hashlib.sha256(source.encode()).hexdigest()[:8]
    survivors, killed, mutants = [], 0, sample_mutants(source, size, f"{seed}:{name}")
    if _run_tests(copy, name) != "survived":
        log = (copy / "last.log").read_text()[-2000:]
        raise SystemExit(f"expected the tests of {name} to pass unmutated, got:\n{log}")
    for key, mutant in mutants:
        entry = f"{name}:{digest}:{key}"
        if entry not in results or (again and results[entry] == "survived"):
            _write(path, mutant)
            results[entry] = _run_tests(copy, name)
            _keep({entry: results[entry]})
        if results[entry] == "survived":
            survivors.append((key, mutant))
        else:
            killed += 1
    _write(path, source)
    _say(f"{name}: {killed} of {len(mutants)} killed")
    for key, mutant in survivors:
        _say(f"  survived: {key}")
        changes = difflib.unified_diff(source.splitlines(), mutant.splitlines(), n=0, lineterm="")
        for line in list(changes)[2:]:
            _say(f"    {line}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def sample_mutants(source: str, size: int, seed: str) -> list[tuple[str, str]]:
    """Name and text of up to ``size`` mutants: every place once before any place twice."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    rng, by_place = random.Random(seed), _mutations(source)
    for variants in by_place.values():
        rng.shuffle(variants)
    places, chosen = sorted(by_place), []
    while len(chosen) < size and any(by_place.values()):
        rng.shuffle(places)
        chosen += [by_place[place].pop() for place in places if by_place[place]]
    found = []
    for operator, occurrence in chosen[:size]:
        mutant = mutate_code(source, get_operator(operator)(), occurrence)
        found.append((f"{operator.removeprefix('core/')}:{occurrence}", mutant))
    return found


def _mutations(source: str) -> dict[Place, list[tuple[str, int]]]:
    """The mutations at each place of a source: operator and occurrence."""
    import parso
    from cosmic_ray.ast import ast_nodes
    from cosmic_ray.plugins import get_operator, operator_names

    left_out, nodes = list(_left_out(ast.parse(source))), list(ast_nodes(parso.parse(source)))
    found: dict[Place, list[tuple[str, int]]] = {}
    for name in sorted(operator_names()):
        # `is` in place of `==` depends on what the interpreter caches.
        if name.endswith(("_Eq_Is", "_NotEq_IsNot")) or "Variable" in name:
            continue
        operator = get_operator(name)()
        places = [place for node in nodes for place in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(places):
            if not any(low <= start and end <= high for low, high in left_out):
                found.setdefault((start, end), []).append((name, occurrence))
    return found


def _left_out(tree: ast.AST) -> Iterator[Place]:
    """Annotations, protocols, raised errors and lists of names, from where to where."""
    for node in ast.walk(tree):
        parts: list[Any] = []
        if isinstance(node, ast.Raise) or (
            isinstance(node, ast.ClassDef) and any("Protocol" in ast.dump(b) for b in node.bases)
        ):
            parts = [node]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            target = node.targets[0].id
            is_type = target[0].isupper() and not target.isupper()  # UnimodalLogits = ...
            parts = [node] if target == "__all__" or is_type else []
        elif isinstance(node, ast.AnnAssign):
            parts = [node if "TypeAlias" in ast.dump(node.annotation) else node.annotation]
        elif isinstance(node, ast.arg):
            parts = [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            parts = [node.returns]
        for part in filter(None, parts):
            start, end = (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
            yield start, end


def _copy_tree(copy: Path) -> None:
    for folder in ("midas_aug", "tests", "examples"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "runs")
        )
    shutil.copy(ROOT / "pyproject.toml", copy)
    with (copy / "tests" / "conftest.py").open("a") as settings:
        settings.write(_PROFILE)


_written = 0


def _write(path: Path, text: str) -> None:
    """Write a source that no byte code of another one is taken for."""
    global _written
    _written += 1
    path.write_text(text)
    os.utime(path, (_written * 10, _written * 10))


def _keep(results: dict[str, str]) -> None:
    """Add to the file, which another run may write to as well."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    part = KEPT.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps({**kept, **results}, indent=1))
    part.replace(KEPT)


def _run_tests(copy: Path, name: str) -> str:
    """Say "survived" where all tests pass, "killed" where one fails, "timeout" where none ends."""
    child = os.fork()
    if child == 0:
        _test_in_child(copy, [f"tests/{file}" for file in TESTS[name]])
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "survived" if status == 0 else "killed"
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _test_in_child(copy: Path, files: list[str]) -> None:
    import pytest

    os.setsid()
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path.insert(0, str(copy))
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "midas_aug")]:
        del sys.modules[name]
    with open(copy / "last.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        skipped = "not compile and not ranks and not worker"
        options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=no", "--assert=plain"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        options += ["--hypothesis-profile=mutation", "--hypothesis-seed=0"]
        status = 1
        try:
            status = int(pytest.main([*options, "-m", "not extra", "-k", skipped, *files]))
        except BaseException:
            traceback.print_exc()
    os._exit(status)


def _import_once() -> None:
    """Import before the forks what the tests import, other than what is mutated."""
    for name in _IMPORTED_BY_TESTS:
        with contextlib.suppress(ImportError):
            module = importlib.import_module(name)
            getattr(module, "BatchEncoding", None)  # transformers imports when it is asked


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    _import_once()
    main()
