"""The layout: which way imports go, and files that can travel to the Hub."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ISLANDS = ("modeling", "preprocessors", "pipelines")
ROOMS = (*ISLANDS, "training")
ROOM_FILES = sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py"))
FACE_FILES = sorted(
    [ROOT / "perceivers_cli.py", *(ROOT / "perceivers").glob("*.py"), *(ROOT / "perceivers/cli").glob("*.py")]
)

# What each part may import of ours, in addition to files of the same folder: the names that an import begins with.
ISLANDS_INSIDE = tuple(f"perceivers.{room}" for room in ISLANDS)
MAY_IMPORT = {
    **dict.fromkeys(ISLANDS, ()),
    "training": ISLANDS_INSIDE,
    "registration": ISLANDS_INSIDE,
    "__init__": (*ISLANDS_INSIDE, "perceivers.registration"),
    "tasks": (*ISLANDS_INSIDE, "perceivers.training"),
    "cli": (*ISLANDS_INSIDE, "perceivers.training", "perceivers.tasks", "perceivers.cli", "perceivers_cli"),
    "__main__": ("perceivers_cli",),
    "perceivers_cli": (),
}


def part_of(path: Path) -> str:
    """The key of a file in `MAY_IMPORT`."""
    return path.parent.name if path.parent.name in (*ROOMS, "cli") else path.stem


def module_name(path: Path) -> str:
    """The name that a file is imported by."""
    relative = path.relative_to(ROOT).with_suffix("")
    name = ".".join(relative.parts if relative.parts[0].startswith("perceivers") else ("perceivers", *relative.parts))
    return name.removesuffix(".__init__")


def absolute_imports(path: Path) -> Iterator[str]:
    """The modules that a file imports by their full names, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def relative_imports(path: Path) -> Iterator[ast.ImportFrom]:
    """The imports of siblings."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node


def is_ours(module: str) -> bool:
    return module.split(".")[0] in {"perceivers", "perceivers_cli", "tests", "benchmarks", *ROOMS}


@pytest.mark.parametrize("path", ROOM_FILES, ids=module_name)
def test_a_room_imports_siblings_by_their_file(path):
    for node in relative_imports(path):
        assert node.level == 1 and node.module and "." not in node.module, ast.unparse(node)
        assert (path.parent / f"{node.module}.py").exists(), ast.unparse(node)


@pytest.mark.parametrize("path", [*ROOM_FILES, *FACE_FILES], ids=module_name)
def test_imports_go_one_way(path):
    allowed = MAY_IMPORT[part_of(path)]
    for module in filter(is_ours, absolute_imports(path)):
        # The sub-commands need the package's version and the registration for remote code.
        is_package = module == "perceivers" and part_of(path) == "cli"
        assert is_package or any(module == name or module.startswith(f"{name}.") for name in allowed), module


def test_the_face_does_not_import_relatively():
    assert [path for path in FACE_FILES if list(relative_imports(path))] == []


def test_no_file_imports_itself_in_a_circle():
    graph = {}
    for path in [*ROOM_FILES, *FACE_FILES]:
        folder = module_name(path).rpartition(".")[0]
        siblings = {f"{folder}.{node.module}" for node in relative_imports(path)}
        graph[module_name(path)] = siblings | set(filter(is_ours, absolute_imports(path)))
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_rooms_are_flat_and_file_names_unique():
    folders = [p for room in ROOMS for p in (ROOT / room).iterdir() if p.is_dir() and p.name != "__pycache__"]
    assert folders == []
    names = [path.name for path in ROOM_FILES if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", ROOM_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_line_of_prose_looks_like_a_relative_import(path):
    # The Hub's copier finds a file's siblings by a regular expression, in docstrings as well.
    imports = {
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    }
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if re.match(r"\s*(from\s+\.|import\s+\.)", line):
            assert number in imports, f"{path}:{number}: {line}"


def test_no_file_is_long():
    folders = (*ROOMS, "perceivers", "perceivers/cli", "benchmarks", "docs", "examples", "tests", ".")
    lengths = {path: len(path.read_text().splitlines()) for folder in folders for path in (ROOT / folder).glob("*.py")}
    assert len(lengths) > 100
    assert {path: length for path, length in lengths.items() if length > 500} == {}


def test_the_model_reads_in_one_file():
    assert len((ROOT / "modeling" / "modeling_iterative_perceiver.py").read_text().splitlines()) <= 350


@pytest.mark.parametrize("room", [*ROOMS, "recipes"])
def test_the_face_links_to_the_room(room):
    assert (ROOT / "perceivers" / room).resolve() == ROOT / room
