"""The tables of docs/results.md, from the JSON beside the benchmarks.

`python -m benchmarks.tables` prints them, `make results` writes them into the page.
"""

import argparse
import json
import statistics
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS

# What can become of a file in `benchmarks.fuzz`. All but the first two are faults.
OUTCOMES = ("read", "refused", "traceback", "abort", "hang", "not finite", "memory")

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
START, END = "<!-- results -->", "<!-- end of results -->"
NAMES = {"perceiver": "Perceiver, `perceivers train`", "svm": "SVM, RBF kernel", "cnn": "CNN with 1-pixel shifts"}


FASHION = {
    "perceiver before": "Perceiver on pixels: 2 blocks, 2 cross-attends",
    "perceiver shallow": "Perceiver on pixels: 1 block, 1 cross-attend",
    "perceiver by place": "Perceiver on pixels: keys without content, an experiment",
    "perceiver conv": "Perceiver with a convolution, `small`",
    "cnn": "CNN",
    "vit 7": "ViT, patches of 7 pixels",
    "vit 4": "ViT, patches of 4 pixels",
}


def read(name: str) -> dict[str, Any]:
    """The results that a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"


def mebibytes(number: int | None) -> str:
    return "out of memory" if number is None else f"{number / 2**20:,.0f} MiB"


def digits() -> list[str]:
    """Accuracy on the held-out fifth of the digits, by model."""
    by_name = read("digits")["runs"].items()
    return accuracies({NAMES[name]: [run["accuracy"] for run in runs.values()] for name, runs in by_name})


def accuracies(by_name: dict[str, list[float]]) -> list[str]:
    """One row per name, for a list with the accuracy of each seed."""
    lines = [row("accuracy", "seeds", "mean", "lowest", "highest"), "|---|---|---|---|---|"]
    for name, values in by_name.items():
        figures = [f"{100 * figure:.2f} %" for figure in (statistics.mean(values), min(values), max(values))]
        lines.append(row(name, len(values), *figures))
    return lines


def sounds() -> list[str]:
    """Raw audio against mel spectrograms on the held-out clips."""
    by_name = read("sounds")["runs"]
    columns = []
    for name in ("waveform", "mel"):
        single, mixed = (list(by_name[f"{dataset} {name}"].values()) for dataset in ("sounds", "sound_mixtures"))
        shares = [mean(single, "accuracy"), mean(mixed, "mean_average_precision"), mean(mixed, "roc_auc")]
        seconds = " and ".join(f"{mean(runs, 'cpu_seconds'):.0f}" for runs in (single, mixed))
        columns.append([*(f"{100 * share:.1f} %" for share in shares), f"{mean(mixed, 'd_prime'):.2f}", seconds])
    names = ("one sound: accuracy", "mixtures: mAP", "mixtures: ROC-AUC", "mixtures: d-prime", "core seconds")
    rows = [row(*cells) for cells in zip(names, *columns, strict=True)]
    return [row("", "raw audio, 128 patches", "mel spectrogram, 64 x 16 values"), "|---|---|---|", *rows]


def mean(runs: list[dict[str, float]], key: str) -> float:
    return statistics.mean(run[key] for run in runs)


def cross_attention() -> list[str]:
    """Time and additional memory of our cross-attention and of transformers'."""
    times = [row("image", "", "transformers", "ours", "faster"), "|---|---|---|---|---|"]
    memory = [row("image", "", "transformers", "ours"), "|---|---|---|---|"]
    for entry in read("cross_attention")["results"]:
        seconds, used = entry["seconds"], entry["bytes"]
        if entry["size"] < 64 or "transformers" not in seconds:
            continue
        theirs, ours = seconds["transformers"]["median"], seconds["factored"]["median"]
        what = f"{entry['size']}²", entry["mode"]
        times.append(row(*what, milliseconds(theirs), milliseconds(ours), f"**{theirs / ours:.1f} x**"))
        memory.append(row(*what, mebibytes(used.get("transformers")), mebibytes(used["factored"])))
    return [*times, "", *memory]


def whole_model() -> list[str]:
    """The paper's model and DeepMind's published one."""
    result = read("whole_model")
    head = ("batch 1", "", "time", "ours", "faster", "limit")
    lines = [row(*head), "|---|---|---|---|---|---|"]
    for name, seconds in result["seconds"].items():
        reference, mode = list(seconds)[1], name.split(", ")[1]
        ours, theirs, free = (timing["median"] for timing in seconds.values())
        times = milliseconds(theirs), milliseconds(ours)
        lines.append(row(reference, mode, *times, f"**{theirs / ours:.2f} x**", f"{theirs / free:.2f} x"))
    lines += ["", row(f"training step, batch {result['memory_batch']}", "peak memory"), "|---|---|"]
    lines += [row(subject, mebibytes(number)) for subject, number in result["bytes"].items()]
    return lines


def small_step() -> list[str]:
    """Steps with two sizes of the kernel, and the input path of small models."""
    result = read("small_step")
    lines = [row("a step, by the sizes of the kernel", "0.1.0", "ours", "less"), "|---|---|---|---|"]
    for name, kernels in result["kernels"].items():
        before, after = (kernels[kernel]["median"] for kernel in ("0.1.0", "ours"))
        lines.append(row(name, milliseconds(before), milliseconds(after), f"{100 * (1 - after / before):.0f} %"))
    lines += ["", row("input path", "first epoch", "later epochs", "augmentation", "step of the model", "share")]
    lines += [f"|{'---|' * 6}"]
    for name, parts in result["input_path"].items():
        first, later, augmentation, model = (part["median"] for part in parts.values())
        share = (later + augmentation) / (later + augmentation + model)
        figures = (milliseconds(seconds) for seconds in (first, later, augmentation, model))
        lines.append(row(name, *figures, f"{100 * share:.1f} %"))
    return lines


def point_clouds() -> list[str]:
    """The paper's ModelNet40 model, by number of points."""
    result = read("point_clouds")
    lines = [row("points", "", "time", "peak memory"), "|---|---|---|---|"]
    for entry in result["results"]:
        for subject, used in entry["bytes"].items():
            seconds = milliseconds(entry["seconds"][subject]["median"])
            lines.append(row(f"{entry['points']:,}", subject, seconds, mebibytes(used)))
    return lines


def shapes() -> list[str]:
    """Accuracy on the held-out shapes."""
    runs = read("shapes")["runs"].values()
    keys = {"as made": "accuracy", "rotated about the vertical axis": "accuracy_turned"}
    return accuracies({name: [run[key] for run in runs] for name, key in keys.items()})


def fuzz() -> list[str]:
    """What became of the mutated files, by task and outcome."""
    result = read("fuzz")
    lines = [row("", "formats", "files", *OUTCOMES, "slowest"), f"|---|{'---|' * (3 + len(OUTCOMES))}"]
    for task in dict.fromkeys(family["task"] for family in result["families"].values()):
        families = [family for family in result["families"].values() if family["task"] == task]
        counts = [sum(family["counts"][outcome] for family in families) for outcome in OUTCOMES]
        slowest = max(family["slowest_seconds"] for family in families)
        numbers = (f"{number:,}" for number in (len(families) * result["files"], *counts))
        lines.append(row(task.removesuffix("-classification"), len(families), *numbers, f"{slowest:.1f} s"))
    return lines


def interruptions() -> list[str]:
    """What became of trainings that were interrupted, by the kind of interruption."""
    trials = [trial for trial in read("interruptions")["trials"] if "left_out" not in trial]
    lines = [row("", "runs", "while writing", "damaged checkpoints", "resumed", "same weights"), f"|{'---|' * 6}"]
    names = {"SIGKILL": "`kill -9`", "SIGTERM": "SIGTERM", "full disk": "full disk"}
    for kind, name in names.items():
        ours = [trial for trial in trials if trial["kind"] == kind]
        writing = sum(trial.get("was_writing", True) for trial in ours)
        damaged = sum(trial["damaged_checkpoints"] for trial in ours)
        lines.append(
            row(name, len(ours), writing, damaged, *(sum(t[key] for t in ours) for key in ("resumed", "same_weights")))
        )
    return lines


def fine_tuning() -> list[str]:
    """A training step with all weights, with LoRA and with a frozen body."""
    result = read("fine_tuning")
    batch = f"step at batch {result['memory_batch']}"
    lines = [row("", "trained", "optimiser", batch, "core seconds per image"), "|---|---|---|---|---|"]
    for subject, seconds in result["core_seconds"].items():
        trained = result["trained"][subject]
        # AdamW keeps two numbers of four bytes for each parameter.
        memory = mebibytes(8 * trained), mebibytes(result["bytes"][subject])
        lines.append(row(subject, f"{trained:,}", *memory, f"{seconds['median']:.1f}"))
    return lines


def fashion() -> list[str]:
    """Accuracy on the test pictures, by model, minutes and order of the pixels, which some models ignore."""
    result = read("fashion")
    # Cells from before a better learning rate was found are left out.
    by_accuracy = sorted(result["trials"], key=lambda trial: trial["accuracy"])
    rates = {trial["model"]: trial["learning_rate"] for trial in by_accuracy}
    minutes = sorted({cell["minutes"] for cell in result["cells"]})
    heads = [f"{number:g} min{', permuted' * permuted}" for number in minutes for permuted in (False, True)]
    lines = [row("", "step", *heads), f"|---|---|{'---|' * len(heads)}"]
    for name, words in FASHION.items():
        cells = [
            spread([cell["accuracy"] for cell in result["cells"] if key.items() <= cell.items()])
            for number in minutes
            for order in ("natural", "permuted")
            for key in [{"model": name, "order": order, "minutes": number, "learning_rate": rates.get(name)}]
        ]
        if name in result["ignore_order"]:
            cells[1::2] = ["same answers" if natural else "" for natural in cells[::2]]
        if any(cells):
            lines.append(row(words, milliseconds(result["step_seconds"][name]["low"]), *cells))
    return lines


def spread(values: list[float]) -> str:
    """`82.1 %`, with several seeds `82.1 % ± 0.3`, the standard deviation; empty without any."""
    if not values:
        return ""
    mean = f"{100 * statistics.mean(values):.1f} %"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def fashion_start() -> list[str]:
    """What untrained latents read."""
    heads = (
        "start",
        "means",
        "of pixels",
        "brightness",
        "ridge on the means",
        "on the pooled latents",
        "from picture",
    )
    lines = [row(*heads), f"|{'---|' * len(heads)}"]
    for name, start in read("fashion_start")["starts"].items():
        keys = ("brightness", "accuracy_of_means", "accuracy_of_pooled", "varies_with_picture")
        shares = (f"{100 * start[key]:.0f} %" for key in keys)
        lines.append(row(name, start["means"], f"{start['pixels']:.0f}", *shares))
    return lines


def machine_line(name: str) -> str:
    machine = read(name)["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, PyTorch {machine['torch']}, "
        f"transformers {machine['transformers']}, {machine['date']}"
    )


def markdown() -> str:
    """What docs/results.md has between its two marks."""
    sections = [
        "## One cross-attention",
        "512 latents of 1024 channels attend to an RGB image with 64 frequency bands, in float32. Transformers' "
        "cross-attention has the same weights and is given the input array ready made. Training is a forward and a "
        "backward pass. Medians; "
        f"{machine_line('cross_attention')}.",
        command("cross_attention"),
        "\n".join(cross_attention()),
        "![Time of one cross-attention against image size](../benchmarks/results/cross_attention.png)",
        "## The whole model",
        "224 x 224 pixels: the paper's model against our own dense path, and DeepMind's published model against "
        "transformers'. The limit is the speed-up that a cross-attention at no cost would give: nothing that changes "
        f"only the cross-attention can be faster. Medians; {machine_line('whole_model')}.",
        command("whole_model"),
        "\n".join(whole_model()),
        "## Small models",
        "A training step of a small model at batch 64, and of one cross-attention of the paper's size at batch 1, "
        "with the tile and the sampled maxima that the kernel had in version 0.1.0 and with those that it has; then "
        "what a batch of 64 inputs (32 recordings) costs before it reaches a small model. The first epoch reads the "
        "files, later ones take what is kept in memory; the share is theirs. Times are those that one core is busy; "
        f"medians; {machine_line('small_step')}.",
        command("small_step"),
        "\n".join(small_step()),
        "## Fine-tuning",
        "A training step of DeepMind's Fourier model at 224 x 224 pixels with ten classes, in float32, with random "
        "weights: all of them, LoRA adapters (rank 8) and the head, or the head on a frozen body. Memory is that of "
        "the optimiser, and the peak of a step beyond it and the weights. Times are those that one core is busy, at "
        f"batch 1; medians of {read('fine_tuning')['core_seconds']['full']['rounds']}; {machine_line('fine_tuning')}.",
        command("fine_tuning"),
        "\n".join(fine_tuning()),
        "## Digits",
        "The held-out fifth of 1,797 images. A seed decides the split and the initial weights.",
        command("digits"),
        "\n".join(digits()),
        "## Sounds",
        "1,200 held-out clips of twelve kinds of sound, with the recipes `sounds` and `sounds-mel`. Core seconds are "
        "those of the whole command, for one sound per clip and for mixtures.",
        command("sounds"),
        "\n".join(sounds()),
        "## Shapes",
        f"{read('shapes')['held_out']} held-out clouds of twelve solids.",
        command("shapes"),
        "\n".join(shapes()),
        "![Scanned solids with the predicted labels](../benchmarks/results/shapes.png)",
        "## Point clouds",
        "The paper's ModelNet40 model, one forward pass of one cloud, in float32. Medians; "
        f"{machine_line('point_clouds')}.",
        command("point_clouds"),
        "\n".join(point_clouds()),
        "## Fashion-MNIST",
        "Test accuracy after equal minutes of one core: as many training steps as fit, by the time that a step of 64 "
        "pictures takes. All have the same augmentation and optimiser, and a few learning rates each. Deviations "
        "are over seeds; a figure without one is that of a single seed. Permuted: the pixels of all pictures are "
        "shuffled in the same way, after the augmentation. The Perceivers on pixels were not trained again: told "
        "where each pixel comes from, they give the same answers, as a test holds; without a grid, those with the "
        f"paper's keys take longer for a step; {machine_line('fashion')}.",
        command("fashion"),
        "\n".join(fashion()),
        "## What untrained latents read",
        "What the latents of the first Perceiver on pixels read of Fashion-MNIST before any training, by start. For "
        "each head, a latent reads a weighted mean of pixels: how many of the 784 pixels it effectively is of, the "
        "share of its variance over pictures that is their mean brightness, the accuracy of ridge regression on all "
        "such means and on the pooled latents that the model's own head reads, and the share of the final latents' "
        "mean square that varies with the "
        f"picture. Ridge regression on all pixels: {100 * read('fashion_start')['every_pixel']:.0f} %.",
        command("fashion_start"),
        "\n".join(fashion_start()),
        "## Broken files",
        f"{read('fuzz')['files']:,} mutated files of each format, always the same ones, read as `perceivers predict` "
        "reads them, every tenth also classified. A file is read, with finite tensors and scores, or refused, in one "
        "line that names it. All else is a fault: another error, a process that aborts, more than 10 s, a number that "
        f"is not finite, or more than 1 GiB of memory; {machine_line('fuzz')}.",
        command("fuzz"),
        "\n".join(fuzz()),
        "## Interrupted trainings",
        f"Runs of {read('interruptions')['steps']} steps with a checkpoint after each, random crops, flips, mixup and "
        "balanced classes, ended at random moments or by a full file system. Each is resumed, and its final weights "
        f"compared with those of a run that nothing interrupted; {machine_line('interruptions')}.",
        command("interruptions"),
        "\n".join(interruptions()),
    ]
    tables = ("|", "!")
    return "\n\n".join(part if part.startswith(tables) else textwrap.fill(part, 120) for part in sections)


def command(name: str) -> str:
    return f"`python -m benchmarks.{name}`"


def page() -> str:
    """docs/results.md, with the tables of the current results."""
    before, rest = PAGE.read_text().split(START)
    return f"{before}{START}\n\n{markdown()}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/results.md")
    if parser.parse_args().write:
        PAGE.write_text(page())
    else:
        print(markdown())


if __name__ == "__main__":
    main()
