"""The layout: rooms that do not know each other, and files that can travel to the Hub."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("modeling", "preprocessors", "pipelines", "training")
ROOM_FILES = sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py"))


@pytest.mark.parametrize("path", ROOM_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_room_imports_only_siblings_and_third_parties(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and "." not in node.module, ast.unparse(node)
            assert (path.parent / f"{node.module}.py").exists(), ast.unparse(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not {module.split(".")[0] for module in modules} & {"perceivers", "tests", "benchmarks", *ROOMS}


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


def test_the_model_reads_in_one_file():
    assert len((ROOT / "modeling" / "modeling_iterative_perceiver.py").read_text().splitlines()) <= 350


@pytest.mark.parametrize("room", [*ROOMS, "recipes"])
def test_the_face_links_to_the_room(room):
    assert (ROOT / "perceivers" / room).resolve() == ROOT / room
