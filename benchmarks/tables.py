"""The README's results from the JSON beside the benchmarks: `python -m benchmarks.tables` prints them."""

import json
import statistics
from typing import Any

from benchmarks.measuring import RESULTS

NAMES = {"perceiver": "Perceiver, `perceivers train`", "svm": "SVM, RBF kernel", "cnn": "CNN with 1-pixel shifts"}


def read(name: str) -> dict[str, Any]:
    """A result that a benchmark has written."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"


def mebibytes(number: int | None) -> str:
    return "out of memory" if number is None else f"{number / 2**20:,.0f} MiB"


def digits() -> list[str]:
    """Accuracy on the held-out fifth, of the seeds that were run."""
    by_name = read("digits")["runs"].items()
    return accuracies({NAMES[name]: [run["accuracy"] for run in runs.values()] for name, runs in by_name})


def accuracies(of_seeds: dict[str, list[float]]) -> list[str]:
    """A row for each list of accuracies."""
    lines = [row("", "seeds", "mean accuracy", "least", "greatest"), "|---|---|---|---|---|"]
    for name, values in of_seeds.items():
        figures = [f"{100 * figure:.2f} %" for figure in (statistics.mean(values), min(values), max(values))]
        lines.append(row(name, len(values), *figures))
    return lines


def sounds() -> list[str]:
    """Raw against mel on the held-out clips, of the seeds that were run."""
    lines = [row("", "accuracy, one sound", "mAP, one to three", "ROC-AUC", "d-prime", "seconds of a core")]
    lines.append("|---|---|---|---|---|---|")
    runs = read("sounds")["runs"]
    for name, title in (("waveform", "raw audio, 128 patches"), ("mel", "mel spectrogram, 64 x 16 values")):
        single, mixed = (list(runs[f"{dataset} {name}"].values()) for dataset in ("sounds", "sound_mixtures"))
        shares = [mean(single, "accuracy"), mean(mixed, "mean_average_precision"), mean(mixed, "roc_auc")]
        seconds = " and ".join(f"{mean(of, 'cpu_seconds'):.0f}" for of in (single, mixed))
        percent = [f"{100 * share:.1f} %" for share in shares]
        lines.append(row(title, *percent, f"{mean(mixed, 'd_prime'):.2f}", seconds))
    return lines


def mean(runs: list[dict[str, float]], key: str) -> float:
    return statistics.mean(run[key] for run in runs)


def cross_attention() -> list[str]:
    """Time of ours and of transformers' cross-attention, and the memory they add."""
    result = read("cross_attention")
    head = ("image", "", "transformers", "ours", "faster", "memory, transformers", "memory, ours")
    lines = [row(*head), "|---|---|---|---|---|---|---|"]
    for entry in result["results"]:
        seconds, memory = entry["seconds"], entry["bytes"]
        if entry["size"] < 64 or "transformers" not in seconds:
            continue
        theirs, ours = seconds["transformers"]["median"], seconds["factored"]["median"]
        mode = "forward" if entry["mode"] == "forward" else "forward + backward"
        sizes = f"{entry['size']} x {entry['size']}"
        used = mebibytes(memory.get("transformers")), mebibytes(memory["factored"])
        lines.append(row(sizes, mode, milliseconds(theirs), milliseconds(ours), f"**{theirs / ours:.1f} x**", *used))
    return lines


def whole_model() -> list[str]:
    """The paper's model and DeepMind's published one."""
    result = read("whole_model")
    head = ("224 x 224, batch 1", "", "time", "ours", "faster", "were cross-attention free")
    lines = [row(*head), "|---|---|---|---|---|---|"]
    for name, seconds in result["seconds"].items():
        reference, mode = list(seconds)[1], name.split(", ")[1]
        ours, theirs, free = (timing["median"] for timing in seconds.values())
        times = milliseconds(theirs), milliseconds(ours)
        lines.append(row(reference, mode, *times, f"**{theirs / ours:.2f} x**", f"{theirs / free:.2f} x"))
    lines += ["", row(f"a training step at batch {result['memory_batch']}", "peak memory"), "|---|---|"]
    lines += [row(subject, mebibytes(number)) for subject, number in result["bytes"].items()]
    return lines


def point_clouds() -> list[str]:
    """The paper's ModelNet40 model by the number of points."""
    result = read("point_clouds")
    lines = [row("points", "", "time", "peak memory"), "|---|---|---|---|"]
    for entry in result["results"]:
        for subject, used in entry["bytes"].items():
            seconds = milliseconds(entry["seconds"][subject]["median"])
            lines.append(row(f"{entry['points']:,}", subject, seconds, mebibytes(used)))
    return lines


def shapes() -> list[str]:
    """Accuracy on the held-out shapes, of the seeds that were run."""
    runs = read("shapes")["runs"].values()
    keys = {"as they are": "accuracy", "turned about the vertical axis": "accuracy_turned"}
    return accuracies({name: [run[key] for run in runs] for name, key in keys.items()})


def machine_of(name: str) -> str:
    machine = read(name)["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, PyTorch {machine['torch']}, "
        f"transformers {machine['transformers']}, {machine['date']}"
    )


def markdown() -> str:
    """The section between the README's two marks."""
    sections = [
        "**One cross-attention**, 512 latents x 1024, 64 bands, RGB, float32, against transformers' with our weights "
        f"(`python -m benchmarks.cross_attention`; medians; {machine_of('cross_attention')}):",
        "\n".join(cross_attention()),
        f"**The whole model** (`python -m benchmarks.whole_model`; medians; {machine_of('whole_model')}):",
        "\n".join(whole_model()),
        "**Digits**, the held-out fifth of 1,797 images (`python -m benchmarks.digits`):",
        "\n".join(digits()),
        "**Sounds**, 1,200 held-out clips of twelve kinds of sound, by the recipes `sounds` and `sounds-mel` "
        "(`python -m benchmarks.sounds`):",
        "\n".join(sounds()),
        f"**Shapes**, {read('shapes')['held_out']} held-out clouds of 12 solids (`python -m benchmarks.shapes`):",
        "\n".join(shapes()),
        "**Point clouds** through the paper's ModelNet40 model, one forward pass of one cloud, float32 (`python -m "
        f"benchmarks.point_clouds`; medians; {machine_of('point_clouds')}):",
        "\n".join(point_clouds()),
    ]
    return "\n\n".join(sections)


if __name__ == "__main__":
    print(markdown())
