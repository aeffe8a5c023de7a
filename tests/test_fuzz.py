"""A short run of the fuzz benchmark, and that it notices what it looks for."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from benchmarks import fuzz
from benchmarks.fuzz_files import FAMILIES, MUTATIONS, mutated

pytestmark = pytest.mark.integration

FORK = multiprocessing.get_context("fork")


def test_mutated_files_do_no_harm(tmp_path):
    pytest.importorskip("torchaudio")
    results = fuzz.fuzz(12, keep=tmp_path / "kept")
    assert len(results) == 29
    assert all(sum(result["counts"].values()) == 12 for result in results.values())
    assert {family: result["faults"] for family, result in results.items() if result["faults"]} == {}
    assert not (tmp_path / "kept").exists()
    # The files are neither all broken nor all whole.
    assert sum(result["counts"]["read"] for result in results.values()) > 50
    assert sum(result["counts"]["refused"] for result in results.values()) > 50


def test_files_are_the_same_each_time():
    for make in FAMILIES.values():
        for family, seeds in make().items():
            files = [mutated(family, seeds, index) for index in range(30)]
            assert files == [mutated(family, seeds, index) for index in range(30)]
            assert len(set(files)) > 20
    for mutate in MUTATIONS:
        for index in range(200):
            mutate(bytearray(b"7" * (1 + index % 5)), random.Random(index))


class Harm:
    """A reader that does what the content of a file says."""

    def read(self, path, processor):
        kind = Path(path).read_text()
        if kind == "memory":
            raise MemoryError
        if kind == "memory within":
            raise ValueError(f"{path} is broken") from MemoryError()
        if kind == "foreign":
            raise KeyError(path)
        if kind == "nameless":
            raise ValueError("it is broken")
        if kind == "lines":
            raise ValueError(f"{path} is\nbroken")
        if kind == "panic":
            raise SystemExit(path)
        raise ValueError(f"{path} is broken")


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("memory within", "memory"),
        ("memory", "memory"),
        ("foreign", "traceback"),
        ("nameless", "traceback"),
        ("lines", "traceback"),
        ("panic", "traceback"),
        ("named", "refused"),
    ],
)
def test_what_counts_as_harm(kind, outcome, tmp_path):
    reader = object.__new__(fuzz.Reader)
    reader.modality, reader.processor = Harm(), None
    path = tmp_path / "file.txt"
    path.write_text(kind)
    assert reader.outcome(str(path), predicts=True)[0] == outcome


def obey(connection, whole):
    """A process that does what it is told."""
    connection.send(("ready", "", 0.0, 0))
    while True:
        _, word, _ = connection.recv()
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "hang":
            time.sleep(60)
        connection.send(("read", word, 0.0, 0))


def test_processes_that_die_or_hang_are_replaced(monkeypatch):
    # Forked, as a new process would import PyTorch for seconds.
    monkeypatch.setattr(fuzz.multiprocessing, "get_context", lambda _: FORK)
    monkeypatch.setattr(fuzz, "work", obey)
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    worker = fuzz.Worker([])
    try:
        assert worker.read("task", "a file", predicts=False) == ("read", "a file", 0.0, 0)
        assert worker.read("task", "die", predicts=False)[:2] == ("abort", "exit code -9")
        assert worker.read("task", "hang", predicts=False)[:2] == ("hang", "more than 1 s")
        assert worker.read("task", "a file", predicts=False)[0] == "read"
    finally:
        worker.close()
