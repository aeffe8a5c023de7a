"""Predict what files hold, with a saved model."""

import argparse
import glob
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast

from huggingface_hub.utils import tqdm
from transformers import Pipeline, PreTrainedConfig, pipeline

from perceivers.cli.errors import one_line
from perceivers.cli.flags import load_task
from perceivers.tasks import Task
from perceivers.training.folders import (
    SYSTEM_NAMES,
    by_suffix,
    counted,
    folders_below,
    has_suffix,
    printable,
    say,
    search_folder,
)

URL_PREFIXES = ("http://", "https://")


@dataclass
class Result:
    """The predictions for one input, or the error that prevented them.

    Attributes:
        file: Path or URL of the input.
        predictions: Rows of the objective, for classification each a `label` and a `score`, best first.
        error: The error in one line; `None` if there was none.
        output: What the pipeline returned.
    """

    file: str
    predictions: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    output: Any = None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        error = {} if self.error is None else {"error": self.error}
        return {"file": self.file, "predictions": self.predictions, **error}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `perceivers predict`."""
    parser.add_argument("model", metavar="MODEL", help="a folder with a model and its processor, or a Hub name")
    parser.add_argument(
        "inputs",
        metavar="FILE",
        nargs="+",
        help="files, folders (searched with all folders in them), quoted globs such as 'photos/**/*.jpg', or URLs",
    )
    parser.add_argument("--top_k", type=int, default=1, help="number of labels to print for each input; 1 by default")
    parser.add_argument("--batch_size", type=int, default=8, help="8 by default; affects only the speed")
    parser.add_argument("--device", help="such as cpu or cuda:0; the first accelerator by default")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--output_dir", type=Path, help="also write the prediction for each input to a file in here")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the model's own code on this machine")


def run(arguments: argparse.Namespace) -> int:
    """Prints predictions to stdout, and a line to stderr for each input that has none.

    Returns:
        The exit code: 0 if there is a prediction for all inputs, else 1.

    Raises:
        ValueError: If an argument is out of range, an input matches nothing, or the model cannot be loaded.
    """
    for name in ("top_k", "batch_size"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"`--{name}` must be at least 1, got {getattr(arguments, name)}.")
    task, config = load_task(arguments.model, arguments.trust_remote_code)
    noun = task.modality.name
    files = find_files(arguments.inputs, task.modality.suffixes, noun)
    predictor = load_pipeline(task, arguments.model, config, arguments.device, arguments.trust_remote_code)

    results = []
    with tqdm(total=len(files), unit=noun, disable=None if len(files) > arguments.batch_size else True) as bar:
        for result in predict(task, predictor, files, arguments.batch_size, arguments.top_k):
            results.append(result)
            if result.error is not None:
                bar.write(f"{result.file}: {result.error}", file=sys.stderr)
            bar.update()
    if arguments.output_dir is not None:
        write_predictions(task, results, arguments.output_dir)
    columns = task.objective.prediction_columns
    print(format_json(results) if arguments.json else format_table(results, columns))
    return int(any(result.error is not None for result in results))


def find_files(patterns: Iterable[str], suffixes: frozenset[str], noun: str = "file") -> list[str]:
    """Finds the files and URLs that match the patterns, in their order and each once.

    A file matches itself, whatever its suffix, and so does a URL. A folder matches the files with one of the suffixes
    in it and in all folders below it, sorted, as in training. A glob matches such files too, and folders. Hidden files
    match only their own names. What is left out is counted on stderr.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    found: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    for pattern in patterns:
        matches, without = expand(pattern, suffixes)
        if not matches:
            given = f" Left out: {counted(without)}." if without.total() else ""
            raise ValueError(
                f"No {noun} matched `{printable(pattern)}`: it is not a file, nor a folder or glob with files that "
                f"end in {', '.join(sorted(suffixes))}.{given}"
            )
        found.update(dict.fromkeys(matches))
        left_out += without
    if left_out:
        say(f"Left out: {counted(left_out)}.")
    return list(found)


def expand(pattern: str, suffixes: frozenset[str]) -> tuple[list[str], Counter[str]]:
    """Finds the files and URLs that match one pattern.

    Returns:
        The files and URLs, and how many others were left out, by reason.
    """
    if pattern.startswith(URL_PREFIXES) or os.path.isfile(pattern):
        return [pattern], Counter()
    if os.path.isdir(pattern):
        found = search_folder(pattern, suffixes)
        return found.paths, found.left_out
    files: set[str] = set()
    left_out: Counter[str] = Counter()
    for path in glob_paths(pattern):
        if SYSTEM_NAMES & set(path.lower().split(os.sep)) - set(pattern.lower().split(os.sep)):
            left_out["hidden or system files and folders"] += 1
        elif os.path.isdir(path or "."):
            found = search_folder(path, suffixes)
            files.update(found.paths)
            left_out += found.left_out
        elif not has_suffix(path, suffixes):
            left_out[by_suffix(path)] += 1
        elif os.path.isfile(path):
            files.add(path)
    return sorted(files), left_out


def glob_paths(pattern: str) -> list[str]:
    """Finds the files and folders that match a glob.

    Unlike in Python's, `**` does not follow links, which may lead in a circle, and at the end it matches only the
    folder that it begins in, as whoever searches that finds the others.
    """
    match = re.search(r"(?:^|(?<=/))\*\*(?:/+|$)", pattern)
    if match is None:
        return glob.glob(pattern)
    head, tail = pattern[: match.start()], pattern[match.end() :]
    starts = [path for path in glob.glob(head) if os.path.isdir(path)] if head else [""]
    if not tail:
        return starts
    folders = [folder for start in starts for folder in folders_below(start)]
    return [path for folder in folders for path in glob_paths(os.path.join(glob.escape(folder), tail))]


def load_pipeline(
    task: Task, name: str, config: PreTrainedConfig, device: str | None, trust_remote_code: bool
) -> Pipeline:
    """Loads the pipeline of a task with the model and the processor that are saved under `name`.

    Raises:
        ValueError: If the processor or some weights are missing, or the device cannot be used.
    """
    modality = task.modality
    try:
        processor = modality.auto_processor.from_pretrained(name, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"`{name}` has no processor that could be loaded from a preprocessor_config.json beside the model; the "
            "processor's save_pretrained writes it."
        ) from error
    model, loading = task.auto_model(config).from_pretrained(
        name, config=config, trust_remote_code=trust_remote_code, output_loading_info=True
    )
    # Missing weights are initialised at random, and so would be the predictions.
    if loading["missing_keys"]:
        raise ValueError(
            f"`{name}` is not a complete model for {task.name}: it has no weights for "
            f"{', '.join(sorted(loading['missing_keys']))}."
        )
    try:
        return pipeline(
            cast(Any, task.name),
            model=model,
            device=device,
            pipeline_class=task.pipeline_class(processor),
            **{modality.processor_argument: processor},
        )
    except (AssertionError, RuntimeError) as error:  # PyTorch lacks the device or does not know it
        raise ValueError(f"The device `{device}` cannot be used: {one_line(error)}") from error


def predict(task: Task, predictor: Pipeline, files: Sequence[str], batch_size: int, top_k: int) -> Iterator[Result]:
    """Yields a result for each file, in their order; an error in one does not stop the others."""
    processor = getattr(predictor, task.modality.processor_argument)
    options = task.objective.pipeline_options(top_k)
    for start in range(0, len(files), batch_size):
        results = [Result(file) for file in files[start : start + batch_size]]
        read = []
        for result in results:
            try:
                read.append((result, task.modality.read(result.file, processor)))
            except Exception as error:  # a broken file can raise anything in its decoder, and so can a download
                # The message may begin with the name, which is printed before it anyway.
                result.error = one_line(error).removeprefix(f"{result.file!r} is ")
        predict_batch(task, predictor, read, options)
        yield from results


def predict_batch(
    task: Task, predictor: Pipeline, batch: Sequence[tuple[Result, Any]], options: dict[str, Any]
) -> None:
    """Writes the predictions for one batch into its results; if the batch fails, for each input alone."""
    if not batch:
        return
    predictor.call_count = 0  # transformers warns of many calls with one input each, which these are not
    try:
        outputs: Any = predictor([data for _, data in batch], batch_size=len(batch), **options)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        if len(batch) == 1:
            batch[0][0].error = one_line(error)
            return
        for single in batch:
            predict_batch(task, predictor, [single], options)
        return
    for (result, _), output in zip(batch, outputs, strict=True):
        result.output = output
        result.predictions = task.objective.format_prediction(output)


def write_predictions(task: Task, results: Sequence[Result], folder: Path) -> None:
    """Writes a file for each prediction, named after its input; equal names get a number."""
    folder.mkdir(parents=True, exist_ok=True)
    used: set[str] = set()
    for result in results:
        if result.error is not None:
            continue
        stem = os.path.splitext(os.path.basename(result.file))[0] or task.modality.name
        names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        name = next(name for name in names if name not in used)
        used.add(name)
        task.objective.write_prediction(result.output, folder, name)


def format_json(results: Sequence[Result]) -> str:
    """Formats the results as JSON."""
    return json.dumps([result.to_dict() for result in results], indent=2, ensure_ascii=False)


def format_table(results: Sequence[Result], columns: Sequence[str]) -> str:
    """Formats a row for each prediction in aligned columns; only the first row of an input names it."""
    rows: list[tuple[Any, ...]] = [("file", *columns)]
    for result in results:
        for rank, prediction in enumerate(result.predictions):
            rows.append((result.file if rank == 0 else "", *(prediction[column] for column in columns)))
    texts = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    is_number = [any(isinstance(row[index], float) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, is_number, strict=True)
        )
        for row in texts
    )
