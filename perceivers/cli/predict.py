"""Say what your images, recordings or point clouds are, with a trained model.

MODEL is the folder that `perceivers train` wrote, or a name on the Hub; it decides which kind of files is read. For
each file a row is printed: its name, the most probable label, and its score from 0 to 1. For example,
`perceivers predict perceiver-digits photos --top_k 3` prints the three best labels of each image in the folder photos.
"""

import argparse
import glob
import json
import os
import re
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import PIL.Image
from huggingface_hub.utils import tqdm
from torch import nn
from transformers import Pipeline, PreTrainedConfig, pipeline
from transformers.pipelines.base import ChunkPipeline

from perceivers.cli.checks import load_whole_model, move_to_device
from perceivers.cli.errors import UserError, one_line
from perceivers.cli.flags import load_task
from perceivers.cli.threads import few_threads
from perceivers.cli.timeline import TIMELINE
from perceivers.pipelines.long_audio_classification import LongAudioClassificationPipeline
from perceivers.pipelines.scores import check_logits
from perceivers.preprocessors.deferred_signals import deferred_signals
from perceivers.preprocessors.reading import is_url
from perceivers.tasks import Task
from perceivers.training.folders import (
    SYSTEM_NAMES,
    by_suffix,
    counted,
    folders_below,
    has_suffix,
    say,
    search_folder,
)
from perceivers_cli import printable

# Bytes of inputs that wait until their batch is full.
MOST_WAITING = 2**26
# Of a label and a time in the table; a longer one moves the rest of its row.
WIDEST_LABEL, WIDEST_TIME = 40, 9


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
    parser.add_argument("model", metavar="MODEL", help="the folder of a trained model, or a name on the Hub")
    parser.add_argument(
        "inputs",
        metavar="FILE",
        nargs="+",
        help="files, folders (searched with all folders in them), quoted globs such as 'photos/**/*.jpg', or URLs",
    )
    parser.add_argument(
        "--top_k", type=int, default=1, metavar="N", help="print the N most probable labels of each file; 1 by default"
    )
    parser.add_argument(
        "--batch_size", type=int, default=8, metavar="N", help="files per step, 8 by default; affects only the speed"
    )
    parser.add_argument("--device", help="where to compute, such as cpu or cuda:0; a GPU by default if there is one")
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of a table, for programs")
    parser.add_argument("--json_lines", action="store_true", help="print a line of JSON for each file, as it is done")
    parser.add_argument(
        "--output_dir", type=Path, metavar="FOLDER", help="also write the labels of each file into a JSON file in here"
    )
    parser.add_argument(
        "--timeline",
        action="store_true",
        help="for recordings: say what is heard when, a row per clip with start and end in seconds; with --output_dir "
        "also as a picture",
    )
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run the code that comes with a model from the Hub; only for authors that you trust",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints predictions to stdout as they come, and a line to stderr for each input that has none.

    Returns:
        The exit code: 0 if there is a prediction for all inputs, else 1.

    Raises:
        ValueError: If an argument is out of range, an input matches nothing, or the model cannot be loaded.
        KeyboardInterrupt: After Ctrl-C, with everything printed that was predicted.
    """
    for name in ("top_k", "batch_size"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"`--{name}` must be at least 1, got {getattr(arguments, name)}.")
    if arguments.json and arguments.json_lines:
        raise UserError("`--json` and `--json_lines` exclude each other.")
    task, config = load_task(arguments.model, arguments.trust_remote_code)
    if arguments.timeline:
        task = with_timeline(task, arguments.model)
    noun = task.modality.name
    files = find_files(arguments.inputs, task.modality.suffixes, noun)
    if arguments.output_dir is not None:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)  # before the work, as it may fail
    predictor = load_pipeline(task, arguments.model, config, arguments.device, arguments.trust_remote_code)
    names = NameGiver(task.modality.name)
    failures = done = 0
    with (
        few_threads(predictor.model),
        make_printer(arguments, task, predictor, files) as printer,
        tqdm(total=len(files), unit=noun, disable=None if len(files) > arguments.batch_size else True) as bar,
    ):
        try:
            for result in predict(task, predictor, files, arguments.batch_size, arguments.top_k):
                printer.print(result)
                errors = [] if result.error is None else [result.error]
                if arguments.output_dir is not None and result.error is None:
                    errors += write_prediction(task, result, arguments.output_dir, names.name(result.file))
                for error in errors:
                    bar.write(f"{printable(result.file)}: {error}", file=sys.stderr)
                failures += len(errors)
                done += 1
                bar.update()
        except KeyboardInterrupt as interruption:
            raise type(interruption)(f"interrupted after {done:,} of {len(files):,} {task.modality.noun}") from None
    return int(failures > 0)


def with_timeline(task: Task, model: str) -> Task:
    """The task with the labels of each clip in the place of those of a whole recording.

    Raises:
        UserError: If the task's inputs have no clips.
    """
    if task.pipeline is not LongAudioClassificationPipeline:
        raise UserError(f"`--timeline` is for recordings, but {model} is a model for {task.modality.noun}.")
    return replace(task, objective=TIMELINE)


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
    if is_url(pattern) or os.path.isfile(pattern):
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
    pipeline_class = task.pipeline_class(processor)
    if task.objective is TIMELINE and pipeline_class is None:
        raise UserError(f"`--timeline` needs our feature extractor; {name} has a {type(processor).__name__}.")
    model = load_whole_model(task.auto_model(config), name, config, task.name, trust_remote_code)
    model = move_to_device(model, device)
    model.register_forward_hook(check_output)
    return pipeline(
        cast(Any, task.name),
        model=model,
        device=model.device,
        pipeline_class=pipeline_class,
        **{modality.processor_argument: processor},
    )


def check_output(model: nn.Module, inputs: tuple, output: Any) -> None:
    """Refuses outputs that are not finite, of which transformers' own pipelines would make labels.

    Raises:
        ValueError: Some logits are NaN or infinite.
    """
    check_logits(output["logits"])


def predict(task: Task, predictor: Pipeline, files: Sequence[str], batch_size: int, top_k: int) -> Iterator[Result]:
    """Yields a result for each file, in their order; an error in one does not stop the others."""
    processor = getattr(predictor, task.modality.processor_argument)
    options = task.objective.pipeline_options(top_k)
    results: list[Result] = []
    read: list[tuple[Result, Any]] = []
    for number, file in enumerate(files, start=1):
        results.append(result := Result(file))
        try:
            read.append((result, task.modality.read(file, processor)))
        except Exception as error:  # a broken file can raise anything in its decoder, and so can a download
            # The message may begin with the name, which is printed before it anyway.
            result.error = re.sub(rf"^{re.escape(repr(file))}(:| is) ", "", one_line(error))
        is_full = len(results) == batch_size or sum(memory_of(data) for _, data in read) > MOST_WAITING
        if is_full or number == len(files):
            predict_batch(task, predictor, read, options)
            yield from results
            results, read = [], []


def memory_of(data: Any) -> int:
    """The memory, in bytes, of an input that was read: an array, a picture, or a dictionary of these."""
    if isinstance(data, Mapping):
        return sum(map(memory_of, data.values()))
    if isinstance(data, PIL.Image.Image):
        return data.width * data.height * len(data.getbands())
    return getattr(data, "nbytes", 0)


def predict_batch(
    task: Task, predictor: Pipeline, batch: Sequence[tuple[Result, Any]], options: dict[str, Any]
) -> None:
    """Writes the predictions for one batch into its results; if the batch fails, for each input alone."""
    if not batch:
        return
    predictor.call_count = 0  # transformers warns of many calls with one input each, which these are not
    # One that cuts inputs into clips has batches of clips, of any number of inputs.
    size = {} if isinstance(predictor, ChunkPipeline) else {"batch_size": len(batch)}
    try:
        outputs: Any = predictor([data for _, data in batch], **size, **options)
    except Exception as error:  # whatever a processor or a model stumbles over
        if len(batch) == 1:
            batch[0][0].error = one_line(error)
            return
        for single in batch:
            predict_batch(task, predictor, [single], options)
        return
    for (result, _), output in zip(batch, outputs, strict=True):
        result.output, result.predictions = output, task.objective.format_prediction(output)


class NameGiver:
    """Names files after inputs; equal names get a number.

    Args:
        default: The name for an input that has none.
    """

    def __init__(self, default: str):
        self.default = default
        self._used: set[str] = set()

    def name(self, file: str) -> str:
        """The name of the file for the prediction of an input, without a suffix."""
        stem = os.path.splitext(os.path.basename(file))[0] or self.default
        names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        name = next(name for name in names if name not in self._used)
        self._used.add(name)
        return name


def write_prediction(task: Task, result: Result, folder: Path, name: str) -> list[str]:
    """Writes a prediction to a file, whole or not at all, and returns the errors, none or one.

    The other inputs can still be predicted.
    """
    try:
        with TemporaryDirectory(prefix=".", dir=folder) as part:
            task.objective.write_prediction(result.output, Path(part), name)
            for path in Path(part).iterdir():  # a picture may be beside it
                path.replace(folder / path.name)
    except OSError as error:
        return [f"The prediction could not be written: {one_line(error)}"]
    return []


class Printer(ABC):
    """Prints results one by one. Each is written out at once: whatever happens next, it is there."""

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        """Completes the output, also after an interruption."""
        self.close()

    @abstractmethod
    def print(self, result: Result) -> None:
        """Prints a result."""

    def close(self) -> None:  # noqa: B027
        """Prints what comes after the last."""


class TablePrinter(Printer):
    """Prints a row for each prediction; only the first row of an input names it.

    Args:
        columns: Keys of the predictions, after the column of the file.
        widths: Of these columns and that of the file: what is known of the texts that will come.
    """

    def __init__(self, columns: Sequence[str], widths: dict[str, int]):
        self.columns, self.widths = columns, widths
        self._has_title = False

    def print(self, result: Result) -> None:
        """Prints a row for each prediction, none if there was an error."""
        rows = [
            [result.file if rank == 0 else "", *map(row.get, self.columns)]
            for rank, row in enumerate(result.predictions)
        ]
        if rows and not self._has_title:
            self._print_title(rows[0])
        for row in rows:
            self._print_row(row, row)

    def close(self) -> None:
        """Prints the titles if there was no prediction at all."""
        if not self._has_title:
            self._print_title([""] * (1 + len(self.columns)))

    def _print_title(self, like: Sequence[Any]) -> None:
        self._has_title = True
        self._print_row(["file", *self.columns], like)

    def _print_row(self, row: Sequence[Any], like: Sequence[Any]) -> None:
        """Prints a row whose columns are aligned as those of another, numbers on the right."""
        cells = []
        for column, value, kind in zip(("file", *self.columns), row, like, strict=True):
            text = f"{value:.4f}" if isinstance(value, float) else printable(str(value))
            width = max(self.widths.get(column, 0), len(column), 6 if isinstance(kind, float) else 0)
            cells.append(text.rjust(width) if isinstance(kind, float) else text.ljust(width))
        print("  ".join(cells), flush=True)


class JsonPrinter(Printer):
    """Prints JSON: an array with an item for each result, or a line for each.

    Args:
        is_array: Whether to print an array, which is valid whenever it is closed.
        is_ascii: Whether to escape all other letters, for an output that lacks some.
    """

    def __init__(self, is_array: bool, is_ascii: bool):
        self.is_array, self.is_ascii = is_array, is_ascii
        self._is_open = False

    def print(self, result: Result) -> None:
        """Prints a result, with the error if there was one."""
        indent = 2 if self.is_array else None
        text = json.dumps(result.to_dict(), indent=indent, ensure_ascii=self.is_ascii, allow_nan=False)
        if not self.is_array:
            print(text, flush=True)
            return
        text = "\n".join(f"  {line}" for line in text.splitlines())
        with deferred_signals():  # the end of the array must know whether it has begun
            # The comma comes with the next item, so that the array can be closed after any.
            print(f",\n{text}" if self._is_open else f"[\n{text}", end="")
            self._is_open = True
        sys.stdout.flush()

    def close(self) -> None:
        """Closes the array."""
        if self.is_array:
            print("\n]" if self._is_open else "[]", flush=True)


def make_printer(arguments: argparse.Namespace, task: Task, predictor: Pipeline, files: Sequence[str]) -> Printer:
    """Makes the printer that the flags ask for."""
    if arguments.json or arguments.json_lines:
        encoding = str(getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "")
        return JsonPrinter(is_array=arguments.json, is_ascii=encoding != "utf8")
    labels = getattr(predictor.model.config, "id2label", None) or {}
    widths = {
        "file": max(len(printable(file)) for file in files),
        **dict.fromkeys(("start", "end"), WIDEST_TIME),
        "label": min(max((len(printable(str(label))) for label in labels.values()), default=0), WIDEST_LABEL),
    }
    return TablePrinter(task.objective.prediction_columns, widths)
