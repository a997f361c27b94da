"""Checks of how source files hang together; each reads sources or paths and returns its findings.

A source tree is a mapping of a file's path, relative to the repository, to its text.
"""

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

Sources = Mapping[str, str]

# Underscore names that are public by their documentation, or that PyTorch has no other name for.
PUBLIC_UNDERSCORES = frozenset(
    {
        "_asdict",  # of a named tuple
        "_fields",
        "_replace",
        "os._exit",
        "torch.utils._python_dispatch",
        "torch._C",
        "torch._C._are_functorch_transforms_active",
        "torch._C._current_graph_task_id",
        "torch._sample_dirichlet",  # torch.distributions takes no generator
        "DistributedDataParallel._active_ddp_module",
        "_join_config",  # of a DistributedDataParallel
        "_traced_key._dynamo_marked_constant",  # torch.compiler's function loads the compiler
        "_version",  # of a tensor: how often it was written to
    }
)

OWN = ("self", "cls", "super()")


def read_sources(root: Path, *folders: str) -> dict[str, str]:
    """The Python files below some folders of a repository."""
    files = [file for folder in folders for file in (root / folder).rglob("*.py")]
    return {
        file.relative_to(root).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(files)
        if "__pycache__" not in file.parts
    }


def module_name(path: str) -> str:
    """What a file is imported as; the examples are imported by their bare names."""
    parts = list(Path(path).with_suffix("").parts)
    if parts[0] == "examples":
        del parts[0]
    if parts[-1] == "__init__":
        del parts[-1]
    return ".".join(parts)


def imported_by(text: str, package: str = "") -> set[str]:
    """Every name that a source imports, those for type checking and inside functions too.

    ``from a import b`` gives ``a`` and ``a.b``: either may be the module.
    """
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = [*(above if node.level else []), *([node.module] if node.module else [])]
            base = ".".join(parts)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def import_circles(sources: Sources) -> list[list[str]]:
    """Groups of modules that import each other, in one step or in several.

    A package that a module's own import names only on the way to a module in it is not counted.
    """
    modules = {module_name(path): path for path in sources}
    edges = {}
    for name, path in modules.items():
        package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
        found = imported_by(sources[path], package) & modules.keys()
        on_the_way = {one for one in found if any(o.startswith(f"{one}.") for o in found)}
        edges[name] = found - on_the_way - {name}
    reachable = {name: _reachable(name, edges) for name in edges}
    circles = {
        tuple(sorted(other for other in reachable[name] if name in reachable[other]))
        for name in edges
        if name in reachable[name]
    }
    return sorted(list(circle) for circle in circles)


def _reachable(start: str, edges: Mapping[str, Collection[str]]) -> set[str]:
    found: set[str] = set()
    left = list(edges[start])
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += edges[name]
    return found


def imports_across(
    sources: Sources, package: str, wings: Sequence[str], shared: Sequence[str]
) -> list[str]:
    """Imports from one wing of a package in another, and of a wing in what the wings share.

    What is shared is layered too: each name of ``shared`` may import only those before it.
    """
    findings = []
    for path, text in sources.items():
        own = _part(module_name(path), package)
        if own in wings:
            allowed = {own, *shared}
        elif own in shared:
            allowed = set(shared[: shared.index(own) + 1])
        else:
            continue
        others = {_part(name, package) for name in imported_by(text, package)} - {"", *allowed}
        findings += [f"{path} imports {package}.{other}" for other in sorted(others)]
    return findings


def _part(name: str, package: str) -> str:
    """The first name below the package; none for what is not in it."""
    return name.removeprefix(f"{package}.").split(".")[0] if name.startswith(f"{package}.") else ""


def private_uses(sources: Sources, allowed: Collection[str] = PUBLIC_UNDERSCORES) -> list[str]:
    """Underscore names of other modules' objects that are read, written or imported.

    Allowed are ``self._x``, ``cls._x``, ``super()._x``, and ``_x`` of any object where a class of
    the same module defines ``_x``. A module with an underscore is there for its own package.
    """
    modules = {module_name(path) for path in sources}
    findings = []
    for path, text in sources.items():
        tree = ast.parse(text)
        package = module_name(path).split(".")[0]
        used = [*_private_attributes(tree), *_private_imports(tree, package, modules)]
        findings += [
            f"{path}:{line} {name}"
            for line, name in sorted(used)
            if not any(name == one or name.endswith(f".{one}") for one in allowed)
        ]
    return findings


def _private_attributes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    own = _defined_in_classes(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner, name = node.value, node.attr
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr")
            and len(node.args) > 1
            and isinstance(node.args[1], ast.Constant)
        ):
            owner, name = node.args[0], str(node.args[1].value)
        else:
            continue
        if _is_private(name) and name not in own and ast.unparse(owner) not in OWN:
            yield node.lineno, f"{ast.unparse(owner)}.{name}"


def _defined_in_classes(tree: ast.AST) -> set[str]:
    """Names that a class body of the module defines, or a method sets on ``self`` or ``cls``."""
    names = set()
    for cls in ast.walk(tree):
        if not isinstance(cls, ast.ClassDef):
            continue
        for node in cls.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            for target in targets:
                names |= {one.id for one in ast.walk(target) if isinstance(one, ast.Name)}
        names |= {
            node.attr
            for node in ast.walk(cls)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) in OWN
        }
    return names


def _private_imports(
    tree: ast.AST, package: str, modules: Collection[str]
) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        base = f"{node.module}." if isinstance(node, ast.ImportFrom) and node.module else ""
        for alias in node.names:
            parts = f"{base}{alias.name}".split(".")
            for number, part in enumerate(parts, start=1):
                name = ".".join(parts[:number])
                if _is_private(part) and not (parts[0] == package and name in modules):
                    yield node.lineno, name


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def longer_than(sources: Sources, lines: int) -> list[str]:
    """The files of more lines than that."""
    return [path for path, text in sources.items() if len(text.splitlines()) > lines]


def unmirrored_folders(
    package: Collection[str], tests: Collection[str], root: str = "tests"
) -> list[str]:
    """Folders of a package without tests of their name, and folders of tests without a package.

    The tests of ``midas_aug/a`` are the folder ``tests/a`` or the file ``tests/test_a.py``. Folders
    of the package are named without its own name, as ``a/b``.
    """
    folders = {Path(*Path(path).parts[1:-1]).as_posix() for path in package} - {"."}
    below = [Path(path).relative_to(root) for path in tests if path.startswith(f"{root}/")]
    tested = {path.parent.as_posix() for path in below if path.name.startswith("test_")} - {"."}
    files = {path.as_posix() for path in below}
    missing = {
        folder
        for folder in folders - tested
        if Path(folder).with_name(f"test_{Path(folder).name}.py").as_posix() not in files
    }
    return [f"{one} has no tests" for one in sorted(missing)] + [
        f"{root}/{one} tests no folder of the package" for one in sorted(tested - folders)
    ]
