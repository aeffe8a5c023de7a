"""`perceivers predict`: classifies files with a saved model.

Finding the inputs, reading them, running the pipeline and printing are apart; what a modality needs is its task's.
"""

import argparse
import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from huggingface_hub.utils import tqdm
from transformers import Pipeline, PreTrainedConfig, pipeline

from perceivers.command_errors import one_line
from perceivers.task import Task
from perceivers.tasks import task_of_model

URL_PREFIXES = ("http://", "https://")


@dataclass
class Result:
    """What became of one input: predictions, best first, each a `label` and a `score`; or an error."""

    file: str
    predictions: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
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
    parser.add_argument("--top_k", type=int, default=1, help="how many labels to print for each, 1 if not given")
    parser.add_argument("--batch_size", type=int, default=8, help="8 if not given; changes the speed alone")
    parser.add_argument("--device", help="such as cpu or cuda:0; an accelerator, if there is one, if not given")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="allow the model's own code to run on this machine"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints predictions to stdout, and a line to stderr for each input that has none.

    Returns: the exit code, 0 if all inputs were classified, else 1.

    Raises:
        ValueError: if an argument is out of range, an input matches nothing, or the model cannot be loaded.
    """
    for name in ("top_k", "batch_size"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"`--{name}` must be at least 1, got {getattr(arguments, name)}.")
    task, config = task_of_model(arguments.model, arguments.trust_remote_code)
    files = find_files(arguments.inputs, task.kind.suffixes, task.modality)
    classifier = load_pipeline(task, arguments.model, config, arguments.device, arguments.trust_remote_code)

    results = []
    with tqdm(
        total=len(files), unit=task.modality, disable=None if len(files) > arguments.batch_size else True
    ) as bar:
        for result in predict(task, classifier, files, arguments.batch_size, arguments.top_k):
            results.append(result)
            if result.error is not None:
                bar.write(f"{result.file}: {result.error}", file=sys.stderr)
            bar.update()
    print(format_json(results) if arguments.json else format_table(results))
    return int(any(result.error is not None for result in results))


def find_files(patterns: Iterable[str], suffixes: frozenset[str], modality: str = "file") -> list[str]:
    """The files and URLs that `patterns` stand for, in their order and each once.

    A file stands for itself, whatever its suffix, and so does a URL. A folder stands for the files with one of the
    suffixes in it and in all folders below it, sorted; a glob for those that match, and for the folders that match.
    Hidden files count only where they are named.

    Raises:
        ValueError: if a pattern stands for no file.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = expand(pattern, suffixes)
        if not matches:
            raise ValueError(
                f"No {modality} matched `{pattern}`: it is no file, and no folder or glob with files that end in "
                f"{', '.join(sorted(suffixes))}."
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def expand(pattern: str, suffixes: frozenset[str]) -> list[str]:
    if pattern.startswith(URL_PREFIXES) or os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        return glob_files(os.path.join(glob.escape(pattern), "**"), suffixes)
    matches = glob_files(pattern, suffixes)
    folders = [path for path in glob.glob(pattern, recursive=True) if os.path.isdir(path)]
    return sorted({*matches, *(file for folder in folders for file in expand(folder, suffixes))})


def glob_files(pattern: str, suffixes: frozenset[str]) -> list[str]:
    return sorted(
        path
        for path in glob.iglob(pattern, recursive=True)
        if os.path.splitext(path)[1].lower() in suffixes and os.path.isfile(path)
    )


def load_pipeline(
    task: Task, name: str, config: PreTrainedConfig, device: str | None, trust_remote_code: bool
) -> Pipeline:
    """The pipeline of `task` with the model and the processor that are saved under `name`.

    Raises:
        ValueError: if the processor or some weights are missing, or the device cannot be used.
    """
    try:
        processor = task.auto_processor.from_pretrained(name, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"`{name}` has no processor that could be loaded, which is a preprocessor_config.json beside the model: "
            "the processor's save_pretrained writes it."
        ) from error
    model, loading = task.auto_model.from_pretrained(
        name, config=config, trust_remote_code=trust_remote_code, output_loading_info=True
    )
    # Weights that are not there are initialised, and the predictions would be those of chance.
    if loading["missing_keys"]:
        raise ValueError(
            f"`{name}` is no complete model for {task.name}: it has no weights for "
            f"{', '.join(sorted(loading['missing_keys']))}."
        )
    try:
        return pipeline(
            cast(Any, task.name),
            model=model,
            device=device,
            pipeline_class=task.pipeline_class(processor),
            **{task.processor_argument: processor},
        )
    except (AssertionError, RuntimeError) as error:  # what PyTorch raises for devices that it lacks or does not know
        raise ValueError(f"The device `{device}` cannot be used: {one_line(error)}") from error


def predict(task: Task, classifier: Pipeline, files: Sequence[str], batch_size: int, top_k: int) -> Iterator[Result]:
    """Yields a result for each file, in their order; one that cannot be classified does not stop the others."""
    processor = getattr(classifier, task.processor_argument)
    for start in range(0, len(files), batch_size):
        results = [Result(file) for file in files[start : start + batch_size]]
        read = []
        for result in results:
            try:
                read.append((result, task.read(result.file, processor)))
            except Exception as error:  # a decoder or a download raises whatever it stumbles over
                # The message may begin with the name, which stands beside it anyway.
                result.error = one_line(error).removeprefix(f"{result.file!r} is ")
        classify(task, classifier, read, top_k)
        yield from results


def classify(task: Task, classifier: Pipeline, batch: Sequence[tuple[Result, Any]], top_k: int) -> None:
    """Writes the predictions for what was read into the results; if the batch fails, for each on its own."""
    if not batch:
        return
    try:
        outputs = task.classify(classifier, [data for _, data in batch], top_k)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        if len(batch) == 1:
            batch[0][0].error = one_line(error)
            return
        for single in batch:
            classify(task, classifier, [single], top_k)
        return
    for (result, _), predictions in zip(batch, outputs, strict=True):
        result.predictions = [{"label": p["label"], "score": p["score"]} for p in predictions]


def format_json(results: Sequence[Result]) -> str:
    return json.dumps([result.to_dict() for result in results], indent=2, ensure_ascii=False)


def format_table(results: Sequence[Result]) -> str:
    """A row for each prediction: file, label, score, in aligned columns; a file stands in the first of its rows."""
    rows = [("file", "label", "score")]
    for result in results:
        for rank, prediction in enumerate(result.predictions):
            file = result.file if rank == 0 else ""
            rows.append((file, str(prediction["label"]), f"{prediction['score']:.4f}"))
    file_width, label_width, score_width = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{file:<{file_width}}  {label:<{label_width}}  {score:>{score_width}}" for file, label, score in rows
    )
