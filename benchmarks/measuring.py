"""Timing and memory: calls are timed in turn in one process; memory is measured in a separate process."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers

RESULTS = Path(__file__).parent / "results"

# glibc keeps freed memory in one heap per thread, so a peak shows its leftovers more than the live tensors. With these
# settings a large tensor's memory is returned when it is freed, as on an accelerator.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}


def machine() -> dict[str, Any]:
    """What a figure depends on apart from the code: the processor and the versions."""
    processor = platform.processor()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        names = [line.split(":")[1].strip() for line in cpu_info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    description = {
        "date": date.today().isoformat(),
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if torch.cuda.is_available():
        description["gpu"] = torch.cuda.get_device_name()
    return description


def synchronize(device: torch.device) -> None:
    """Waits until the accelerator has finished, so that its work is timed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock time of one call."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def interleaved(
    calls: dict[str, Callable[[], Any]], device: torch.device, repeats: int, budget: float
) -> dict[str, dict[str, float]]:
    """Times the calls in turn, A B C A B C ..., so that a change of the machine's speed affects all of them.

    Args:
        calls: the functions to time, by name.
        device: the device they run on.
        repeats: the number of rounds, after a first one that is not counted.
        budget: seconds after which no new round begins.

    Returns:
        For each call the median and quartiles in seconds, and the number of rounds.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for index in range(repeats):
        if index >= 2 and time.perf_counter() - start > budget:
            break
        for name, call in calls.items():
            times[name].append(seconds(call, device))
    return {name: summary(values) for name, values in times.items()}


def summary(values: list[float]) -> dict[str, float]:
    """Median, quartiles and count."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high, "rounds": len(values)}


def peak_memory(call: Callable[[], Any], device: torch.device) -> int:
    """Peak memory of a call in bytes, beyond what was in use before. Call it once per process: a peak never falls."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    # The kernel's high-water mark of this process; `getrusage` would include the process that started it.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    call()
    return resident_bytes("VmHWM") - before


def resident_bytes(field: str) -> int:
    """Memory of this process in bytes (Linux): `VmRSS` is the current, `VmHWM` the highest since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def in_own_process(module: str, *arguments: str, environment: dict[str, str] | None = None) -> Any:
    """Runs `python -m module arguments` and returns the JSON of its last line, or `None` if it ran out of memory.

    Args:
        module: the module to run.
        *arguments: its command-line arguments.
        environment: variables to set for the process.

    Raises:
        RuntimeError: If the process fails for another reason.
    """
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=RESULTS.parent.parent,
        env={**os.environ, **(environment or {})},
    )
    if result.returncode in (-9, 137):
        return None
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def save(name: str, result: dict[str, Any]) -> Path:
    """Writes a result to `results/` as JSON and returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
