"""A short run of the fuzz benchmark, and that it notices what it looks for."""

import os
import random
import signal
from pathlib import Path

import pytest

from benchmarks import fuzz
from benchmarks.fuzz_files import FAMILIES, MUTATIONS, mutated

pytestmark = pytest.mark.integration


def test_mutated_files_do_no_harm(tmp_path):
    pytest.importorskip("torchaudio")
    results = fuzz.fuzz(24, keep=tmp_path / "kept")
    assert len(results) == 29
    assert all(sum(result["counts"].values()) == 24 for result in results.values())
    assert {family: result["faults"] for family, result in results.items() if result["faults"]} == {}
    assert not (tmp_path / "kept").exists()
    # The files are neither all broken nor all whole.
    assert sum(result["counts"]["read"] for result in results.values()) > 100
    assert sum(result["counts"]["refused"] for result in results.values()) > 100


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


def test_processes_that_die_or_hang_are_replaced(tmp_path, monkeypatch):
    ((suffix, content),) = FAMILIES["point-cloud-classification"]()["OFF"]
    path = tmp_path / f"whole{suffix}"
    path.write_bytes(content)
    words = ("point-cloud-classification", str(path))
    worker = fuzz.Worker([words])
    try:
        assert worker.read(*words, predicts=True)[0] == "read"
        os.kill(worker._process.pid, signal.SIGABRT)
        assert worker.read(*words, predicts=False)[:2] == ("abort", "exit code -6")
        assert worker.read(*words, predicts=False)[0] == "read"
        os.kill(worker._process.pid, signal.SIGSTOP)
        monkeypatch.setattr(fuzz, "SECONDS", 0.1)
        assert worker.read(*words, predicts=False)[0] == "hang"
    finally:
        worker.close()
