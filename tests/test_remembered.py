"""What is remembered of files between runs: nothing that a file has changed since, and no run depends on it."""

import os
import time

import pytest

from perceivers.training import remembered as module
from perceivers.training.classification import CLASSIFICATION
from perceivers.training.contents import Content, fingerprints
from perceivers.training.datasets import load_examples
from perceivers.training.images import IMAGES, ImageDataArguments
from perceivers.training.remembered import remembered
from tests.runs import save_images


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """Where the answers are, in a folder of the test."""
    path = tmp_path / "cache" / "files.sqlite"
    monkeypatch.setattr(module, "FILE", path)
    monkeypatch.setattr(module, "SETTLED_SECONDS", -3600.0)  # the files of these tests are new
    return path


@pytest.fixture
def files(tmp_path):
    paths = [str(tmp_path / name) for name in ("a", "b", os.fsdecode(b"\xff"))]
    for path in paths:
        write(path, b"first")
    return paths


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def ask(paths, question="content"):
    """The answers, and the files that were opened for them."""
    opened = []

    def find(path):
        opened.append(path)
        return read(path)

    return remembered(question, paths, find), opened


def read(path):
    if not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        return file.read()


def test_files_are_asked_about_once(files):
    assert ask(files) == ([b"first"] * 3, files)
    assert ask(files[::-1]) == ([b"first"] * 3, [])
    assert ask(files, "another question")[1] == files


def test_changed_files_are_asked_about_again(files):
    ask(files)
    found = os.stat(files[1])
    write(files[1], b"other")  # of the same size
    os.utime(files[1], ns=(found.st_atime_ns, found.st_mtime_ns))  # the change of the inode is noticed
    assert ask(files) == ([b"first", b"other", b"first"], [files[1]])


def test_what_has_no_answer_is_asked_about_again(files):
    os.remove(files[0])
    assert ask(files) == ([None, b"first", b"first"], files)
    write(files[0], b"new")
    assert ask(files) == ([b"new", b"first", b"first"], [files[0]])


def test_files_that_may_still_change_are_not_remembered(files, monkeypatch):
    monkeypatch.setattr(module, "SETTLED_SECONDS", 3600.0)
    ask(files)
    assert ask(files)[1] == files


@pytest.mark.parametrize("damage", ["no database", "no folder"])
def test_no_run_depends_on_it(files, memory, damage):
    if damage == "no folder":
        memory.parent.write_text("a file")
    else:
        memory.parent.mkdir()
        memory.write_bytes(b"no database" * 1000)
    assert ask(files) == ([b"first"] * 3, files)
    assert ask(files) == ([b"first"] * 3, [] if damage == "no database" else files)


def test_another_process_at_work(files, memory):
    ask(files)
    with module.sqlite3.connect(memory) as other:
        other.execute("BEGIN EXCLUSIVE")
        start = time.perf_counter()
        assert ask(files) == ([b"first"] * 3, files)
        assert time.perf_counter() - start < 4 * module.PATIENCE


def test_many_files_are_asked_about_in_groups(tmp_path):
    paths = [str(tmp_path / str(number)) for number in range(2 * module.GROUP + 1)]
    for path in paths[1:]:
        write(path, path.encode())
    assert ask(paths)[0] == [None, *(path.encode() for path in paths[1:])]
    assert ask(paths[::-1]) == ([*(path.encode() for path in paths[:0:-1]), None], paths[:1])


def test_it_begins_anew_before_it_grows_without_end(files, monkeypatch):
    monkeypatch.setattr(module, "MOST_ANSWERS", 2)
    ask(files)
    ask(files, "another question")
    assert ask(files)[1] == files


def test_contents_are_read_once(files, monkeypatch):
    contents = [Content(files[0]), Content(data=memoryview(b"in memory")), Content(files[0] + " is not there")]
    first = fingerprints(contents)
    assert first == [content.fingerprint() for content in contents] and first[0].size == 5 and first[2] is None
    monkeypatch.setattr(Content, "fingerprint", lambda content: None)
    assert fingerprints(contents) == [first[0], None, None]


def test_readable_files_are_checked_once(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    for name in ("a", "b"):
        save_images(folder / name, number=5)
    (folder / "a" / "0.png").write_bytes(b"no image")
    arguments = ImageDataArguments(train_dir=str(folder))
    first = load_examples(IMAGES, CLASSIFICATION, arguments, seed=0)
    assert len(first.unreadable) == 1
    checked, check = [], IMAGES.check_file
    monkeypatch.setattr(type(IMAGES), "check_file", lambda _, path, processor: [checked.append(path), check(path)])
    again = load_examples(IMAGES, CLASSIFICATION, arguments, seed=0)
    assert again.unreadable == first.unreadable and checked == [str(folder / "a" / "0.png")]
