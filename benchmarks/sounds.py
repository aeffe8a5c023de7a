"""Raw audio against mel spectrograms on the built-in sounds: one sound per clip, and mixtures of up to three.

    python -m benchmarks.sounds

Each run is `perceivers train` with a built-in recipe, in a separate process. The clips it is evaluated on are held out
and made from a seed on which no setting was chosen. A run that `results/sounds.json` already has is not repeated,
unless the recipe has changed since.
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
    """Core seconds used so far by the processes that this one started."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def train(recipe: str, dataset: str, seed: int) -> dict[str, Any]:
    """The metrics at the end of a run, and the seconds it took.

    `training_seconds` and `seconds`, of the training and of the whole command, depend on what else the machine does;
    `cpu_seconds`, the core seconds, do not.
    """
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
    """Runs what is missing and writes the results after each run."""
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
