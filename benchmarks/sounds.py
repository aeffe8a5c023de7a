"""The embedded sounds, raw against mel as the paper compares them: one sound a clip, and mixtures of up to three.

    python -m benchmarks.sounds

Each run is `perceivers train` by a built-in recipe as it is, in a process of its own; the clips that count are held
out and made from a seed that no setting was chosen on. Runs that `results/sounds.json` has by the recipe as it is now
are not run again.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS as RESULTS_FOLDER
from benchmarks.measuring import machine
from perceivers.cli.flags import find_recipe
from perceivers.training.recipe import read_recipe

RESULTS = RESULTS_FOLDER / "sounds.json"
RECIPES = {"waveform": "sounds", "mel": "sounds-mel"}
DATASETS = ("sounds", "sound_mixtures")


def cpu_seconds() -> float:
    """What the processes that this one has started have used, on all cores."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def train(recipe: str, dataset: str, seed: int) -> dict[str, Any]:
    """What the evaluation at the end of a run has measured, and the seconds that training and command took; those of a
    core, `cpu_seconds`, do not depend on what else the machine does."""
    start, cpu_start = time.perf_counter(), cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", recipe, "--dataset_name", dataset, "--seed", seed, "--output_dir", folder]
        subprocess.run([sys.executable, "-m", "perceivers", *map(str, words)], check=True)
        results = json.loads((Path(folder) / "all_results.json").read_text())
    left_out = ("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    measured = {key[5:]: value for key, value in results.items() if key.startswith("eval_") and key not in left_out}
    seconds = {
        "training_seconds": results["train_runtime"],
        "seconds": time.perf_counter() - start,
        "cpu_seconds": cpu_seconds() - cpu_start,
    }
    return {**measured, **{key: round(value, 1) for key, value in seconds.items()}}


def main() -> None:
    """Runs what is missing and writes the results after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--datasets", choices=DATASETS, nargs="+", default=list(DATASETS))
    parser.add_argument("--only", choices=RECIPES, nargs="+", default=list(RECIPES))
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"recipes": {}, "runs": {}}
    for dataset in arguments.datasets:
        for name in arguments.only:
            recipe = read_recipe(find_recipe(RECIPES[name]))
            if results["recipes"].get(name) != recipe:
                results["runs"] = {key: runs for key, runs in results["runs"].items() if not key.endswith(f" {name}")}
            results["recipes"][name] = recipe
            runs = results["runs"].setdefault(f"{dataset} {name}", {})
            for seed in arguments.seeds:
                if str(seed) in runs:
                    continue
                runs[str(seed)] = train(RECIPES[name], dataset, seed)
                results["machine"] = machine()
                RESULTS.write_text(json.dumps(results, indent=2) + "\n")
                print(f"{dataset} {name} seed {seed}: {runs[str(seed)]}", flush=True)


if __name__ == "__main__":
    main()
