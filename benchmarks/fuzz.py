"""Reads mutated files of every format: each must give finite tensors and scores, or an error that names the file.

Every family of formats gets 1,000 files, always the same. Each is read and made into tensors, and every tenth is
classified by a tiny model, in a process that is limited in memory and time, so that a library that aborts or hangs is
counted and the next file gets a new process.

`python -m benchmarks.fuzz` writes benchmarks/results/fuzz.json. `--keep FOLDER` keeps the files that did harm.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline

import perceivers
from benchmarks.fuzz_files import FAMILIES, Seed, mutated
from benchmarks.measuring import machine, resident_bytes, save
from benchmarks.tables import OUTCOMES
from perceivers.tasks import Task, task_named

FILES = 1000
PREDICT_EVERY = 10
SECONDS, MEMORY = 10, 2**30  # per file; memory in addition to what the process has after it has read whole files
LIBRARIES = ("numpy", "pillow", "soundfile", "torchaudio", "plyfile", "pypcd4", "laspy", "lazrs", "trimesh")
FAULTS = OUTCOMES[2:]


class Reader:
    """Reads files as `perceivers predict` does, with a tiny model of the task."""

    def __init__(self, task: Task):
        torch.manual_seed(0)
        self.modality = task.modality
        config = task.modality.config_class.from_variant("tiny")
        self.processor = task.modality.make_processor(config, {})
        arguments: dict[str, Any] = {task.modality.processor_argument: self.processor}
        self.classify = pipeline(
            task.name,  # type: ignore[call-overload]
            model=task.auto_model(config).from_config(config).eval(),
            pipeline_class=task.pipeline_class(self.processor),
            device="cpu",
            **arguments,
        )

    def outcome(self, path: str, predicts: bool) -> tuple[str, str]:
        """What becomes of a file, and the error."""
        is_read = False
        try:
            value = self.modality.read(path, self.processor)
            is_read = True
            tensors = self.modality.eval_transform(self.processor)([value])
            if not all(torch.as_tensor(tensor).isfinite().all() for tensor in tensors.values()):
                return "not finite", "the tensors"
            if predicts:
                scores = [row["score"] for row in self.classify(value)]
                if not torch.tensor(scores).isfinite().all():
                    return "not finite", "the scores"
        except BaseException as error:  # a panic of lazrs is no Exception
            message = f"{type(error).__name__}: {error}"[:500]
            if is_out_of_memory(error):
                return "memory", message
            names_file = is_read or os.path.basename(path) in str(error)  # after that, the caller knows the file
            is_ours = isinstance(error, ValueError) and names_file and "\n" not in str(error)
            return "refused" if is_ours else "traceback", message
        return "read", ""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, is for want of memory."""
    while error is not None:
        if isinstance(error, MemoryError) or "llocate" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def work(connection: Any, whole: list[tuple[str, str]]) -> None:
    """Answers tasks and paths with what becomes of the files, in a process of its own."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    torch.set_num_threads(1)
    readers = {task: Reader(task_named(task)) for task in dict(whole)}
    for task, path in whole:
        outcome = readers[task].outcome(path, predicts=True)
        if outcome[0] != "read":
            connection.send(("seed", f"{path}: {outcome}", 0.0, 0))
            return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (resident_bytes("VmSize") + MEMORY, hard))
    connection.send(("ready", "", 0.0, 0))
    with suppress(EOFError):
        while True:
            task, path, predicts = connection.recv()
            Path("/proc/self/clear_refs").write_text("5")
            before, start = resident_bytes("VmRSS"), time.monotonic()
            outcome = readers[task].outcome(path, predicts)
            connection.send((*outcome, time.monotonic() - start, resident_bytes("VmHWM") - before))


class Worker:
    """A process that reads files. A new one takes the place of one that died.

    Args:
        whole: Tasks and paths of whole files, which load the libraries.
    """

    def __init__(self, whole: list[tuple[str, str]]):
        self.whole = whole
        self._process: Any = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, self.whole), daemon=True)
        self._process.start()
        theirs.close()
        state, detail, *_ = self._connection.recv()
        if state != "ready":
            raise RuntimeError(f"A whole file is not read: {detail}")

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None

    def read(self, task: str, path: str, predicts: bool) -> tuple[str, str, float, int]:
        """What becomes of a file: the outcome, the error, seconds, and bytes of memory."""
        if self._process is None:
            self._start()
        try:
            self._connection.send((task, path, predicts))
            if self._connection.poll(SECONDS):
                return self._connection.recv()
            outcome = "hang", f"more than {SECONDS} s"
        except (EOFError, OSError):
            self._process.join()
            outcome = "abort", f"exit code {self._process.exitcode}"
        self.close()
        return *outcome, 0.0, 0


def fuzz_family(
    worker: Worker, task: str, family: str, seeds: list[Seed], folder: Path, files: int, keep: Path | None
) -> dict[str, Any]:
    """Reads the mutated files of one family, and returns counts and faults."""
    counts, faults, slowest, largest = Counter(dict.fromkeys(OUTCOMES, 0)), [], 0.0, 0
    for index in range(files):
        suffix, content = mutated(family, seeds, index)
        path = folder / f"mutated{suffix}"
        path.write_bytes(content)
        outcome, detail, seconds, used = worker.read(task, str(path), index % PREDICT_EVERY == 0)
        counts[outcome] += 1
        slowest, largest = max(slowest, seconds), max(largest, used)
        if outcome in FAULTS:
            faults.append({"index": index, "outcome": outcome, "detail": detail.replace(str(folder), "")})
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{family}-{index}{suffix}".replace(" ", "-")).write_bytes(content)
    return {
        "task": task,
        "counts": counts,
        "slowest_seconds": round(slowest, 2),
        "largest_bytes": largest,
        "faults": faults,
    }


def fuzz(
    files: int, families: Collection[str] | None = None, keep: Path | None = None, verbose: bool = False
) -> dict[str, dict[str, Any]]:
    """Reads mutated files.

    Args:
        files: Number of files in each family.
        families: Names of the families; all by default.
        keep: Folder for the files that did harm.
        verbose: Whether to print each family's counts.

    Returns:
        Counts and faults of each family.
    """
    seeds = {
        (task, family): seeds
        for task, make in FAMILIES.items()
        for family, seeds in make().items()
        if families is None or family in families
    }
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder, whole = Path(name), []
        for (task, family), some in seeds.items():
            for number, (suffix, content) in enumerate(some):
                path = folder / f"whole-{family}-{number}{suffix}"
                path.write_bytes(content)
                whole.append((task, str(path)))
        worker = Worker(whole)
        try:
            for (task, family), some in seeds.items():
                results[family] = fuzz_family(worker, task, family, some, folder, files, keep)
                if verbose:
                    found = {name: count for name, count in results[family]["counts"].items() if count}
                    print(f"{family:<12}", found, flush=True)
        finally:
            worker.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=FILES, help=f"files in each family; {FILES:,} by default")
    parser.add_argument("--families", nargs="+", help="such as PNG WAV PLY; all by default, and only then it is saved")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the files that did harm")
    arguments = parser.parse_args()
    families = fuzz(arguments.files, arguments.families, arguments.keep, verbose=True)
    for family, result in families.items():
        for fault in result["faults"]:
            print(f"{family} {fault['index']}: {fault['outcome']}: {fault['detail']}")
    if arguments.families is None:
        versions = {"perceivers": perceivers.__version__, **{name: version(name) for name in LIBRARIES}}
        limits = {"seconds": SECONDS, "bytes": MEMORY}
        result = {"machine": machine(), "versions": versions, "files": arguments.files, "limits": limits}
        print(save("fuzz", {**result, "families": families}))


if __name__ == "__main__":
    main()
