"""The rules of the house that no linter knows, read from the sources with ``ast``."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import pytest

LAYERS = {
    "radio_core": 0,
    "radio_llava": 1,
    "radio_sam": 1,
    "radio_clip": 1,
    "radio_eval": 2,
    "radio_demos": 3,
}
FOLDERS = {
    "radio_core": "radio_core",
    "radio_llava": "integrations/radio_llava",
    "radio_sam": "integrations/radio_sam",
    "radio_clip": "integrations/radio_clip",
    "radio_eval": "eval/radio_eval",
    "radio_demos": "demos/radio_demos",
}
IMPORTERS = ("import_module", "require", "find_spec", "__import__")
HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "PIL",
    "timm",
    "transformers",
    "open_clip",
    "rich",
    "tyro",
}
MAX_FILE_LINES = 500
STUDENTS = {
    "ViTConfig",
    "VisionTransformer",
    "ERadio",
    "ERadioConfig",
    "TimmStudent",
    "TimmConfig",
}
MAX_CLASS_TESTS = 5
Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.fixture(scope="module")
def packages(checkout: Path) -> dict[Path, tuple[str, ast.Module]]:
    """Every source file of the six packages -> (its package, its tree)."""
    return {
        path.relative_to(checkout): (package, ast.parse(path.read_text(encoding="utf-8")))
        for package, folder in FOLDERS.items()
        for path in sorted((checkout / folder).rglob("*.py"))
    }


@pytest.fixture(scope="module")
def own_files(checkout: Path) -> list[Path]:
    """Every Python file that people maintain: packages, scripts and tests."""
    folders = [*FOLDERS.values(), "scripts", "tests"]
    return [path for folder in folders for path in sorted((checkout / folder).rglob("*.py"))]


def imported_modules(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of every absolute import at any depth, also of imports by a constant name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
        elif isinstance(node, ast.Call) and node.args and called_name(node) in IMPORTERS:
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                yield node.lineno, target.value


def called_name(call: ast.Call) -> str:
    """``f`` of ``f(...)`` and of ``module.f(...)``."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """(dotted name, node) of the public functions, classes and methods; not of what is nested."""
    for node in body:
        if isinstance(node, (ast.If, ast.Try)):
            yield from public_definitions(node.body, prefix)
        elif isinstance(node, (Function, ast.ClassDef)) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


def needs_no_docstring(node: ast.AST) -> bool:
    """An overload and a property's setter or deleter are documented by their first definition."""
    decorators = [ast.unparse(item) for item in getattr(node, "decorator_list", [])]
    return any(d.endswith(("overload", ".setter", ".deleter")) for d in decorators)


def test_arrows_only_point_down(packages: dict[Path, tuple[str, ast.Module]]) -> None:
    arrows_up = [
        f"{path}:{line} imports {module}"
        for path, (package, tree) in packages.items()
        for line, module in imported_modules(tree)
        if (target := module.partition(".")[0]) in LAYERS
        and target != package
        and LAYERS[target] >= LAYERS[package]
    ]
    assert arrows_up == []


@pytest.fixture(scope="module")
def arrows(packages: dict[Path, tuple[str, ast.Module]]) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, at any depth, but not for type checkers alone."""
    trees = {}
    for path, (package, tree) in packages.items():
        parts = list(path.with_suffix("").parts)
        parts = parts[parts.index(package) :]
        trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = tree
    found: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        targets = [module for _, module in imported_modules(tree)]
        targets += [
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        ]
        inner = {t for t in targets if t in trees and t != name}
        # `from package import module` is an arrow to the module, not to the package's __init__.
        found[name] = {t for t in inner if not any(other.startswith(f"{t}.") for other in inner)}
    return found


def knots(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The groups of names that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in arrows.get(waiting.pop(), set()) - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    ways = {name: reached(name) for name in arrows}
    tied = {a: {b for b in ways[a] if a in ways.get(b, ())} for a in ways if a in ways[a]}
    return [list(group) for group in sorted({tuple(sorted(group)) for group in tied.values()})]


def test_no_module_imports_itself_in_a_circle(arrows: dict[str, set[str]]) -> None:
    assert knots(arrows) == []


def test_no_folder_imports_itself_in_a_circle(arrows: dict[str, set[str]]) -> None:
    folders: dict[str, set[str]] = {}
    for name, targets in arrows.items():
        home = name.split(".")[:2]
        for target in targets:
            other = target.split(".")[:2]
            inside = home[0] == other[0] and min(name.count("."), target.count(".")) > 1
            if inside and home != other:
                folders.setdefault(".".join(home), set()).add(".".join(other))
    assert knots(folders) == []


def test_the_library_imports_no_commands(arrows: dict[str, set[str]]) -> None:
    wrong = {
        f"{name} -> {target}"
        for name, targets in arrows.items()
        for target in targets
        if "cli" not in name.split(".") and "cli" in target.split(".")
    }
    assert wrong == set()


def test_nobody_outside_models_asks_for_the_class_of_a_student(
    packages: dict[Path, tuple[str, ast.Module]],
) -> None:
    asked = [
        f"{path}:{node.lineno}"
        for path, (_, tree) in packages.items()
        if "models" not in path.parts
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and called_name(node) == "isinstance"
        and {name.id for name in ast.walk(node) if isinstance(name, ast.Name)} & STUDENTS
    ]
    assert len(asked) <= MAX_CLASS_TESTS, asked


def test_every_file_is_short(own_files: list[Path], checkout: Path) -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in own_files}
    too_long = {str(p.relative_to(checkout)): n for p, n in lengths.items() if n > MAX_FILE_LINES}
    assert too_long == {}


def test_everything_public_is_documented(packages: dict[Path, tuple[str, ast.Module]]) -> None:
    bare = [f"{path}: the module" for path, (_, tree) in packages.items() if not has_doc(tree)]
    bare += [
        f"{path}:{getattr(node, 'lineno', 0)} {name}"
        for path, (_, tree) in packages.items()
        for name, node in public_definitions(tree.body)
        if not needs_no_docstring(node) and not has_doc(node)
    ]
    assert bare == []


def has_doc(node: ast.AST) -> bool:
    """Whether a module, class or function has a docstring."""
    if not isinstance(node, (ast.Module, ast.ClassDef, Function)):
        return False
    return bool(ast.get_docstring(node))


def test_folders_that_group_packages_are_no_packages(checkout: Path) -> None:
    groups = ("integrations", "eval", "demos")
    assert [name for name in groups if (checkout / name / "__init__.py").exists()] == []


def test_every_package_is_marked_as_typed(checkout: Path) -> None:
    folders = FOLDERS.values()
    assert [name for name in folders if not (checkout / name / "py.typed").exists()] == []


def test_no_module_collects_strangers(own_files: list[Path]) -> None:
    names = {"utils.py", "util.py", "helpers.py", "misc.py", "common_utils.py"}
    assert [str(path) for path in own_files if path.name in names] == []


def test_every_extra_that_is_asked_for_exists(
    packages: dict[Path, tuple[str, ast.Module]],
) -> None:
    extras = set(metadata("radio-toolkit").get_all("Provides-Extra") or [])
    unknown = []
    for path, (_, tree) in packages.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and called_name(node) == "require":
                named = [k.value for k in node.keywords if k.arg == "extra"] or node.args[1:2]
                extra = named[0].value if named and isinstance(named[0], ast.Constant) else None
                if extra is not None and extra not in extras:
                    unknown.append(f"{path}:{node.lineno} {extra!r}")
    assert unknown == []


def test_every_command_exists_and_has_a_line_in_the_help() -> None:
    from radio_core.cli import COMMANDS, first_line

    lines = {name: first_line(entry) for name, entry in COMMANDS.entries.items()}
    assert lines
    assert [name for name, line in lines.items() if line in ("", "(not installed)")] == []


@pytest.mark.parametrize(
    "statement",
    [
        "import radio_core",
        "from radio_core.cli import main; main(['--help'])",
        "import radio_core.extras, radio_core.cli, radio_core.config_file, radio_core.registry",
    ],
)
def test_light_imports_stay_light(statement: str) -> None:
    code = f"{statement}\nimport sys; print('loaded:', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert loaded & HEAVY == set()
