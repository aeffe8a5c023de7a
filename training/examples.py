"""Examples as the model takes them, read when they are needed, without those that cannot be read.

What varies an example depends on the seed, the epoch and the example alone. Neither worker processes nor an
interruption change it.
"""

import contextlib
import itertools
import math
import mmap
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from huggingface_hub.utils import tqdm
from transformers.data.data_collator import default_data_collator

from .folders import printable, say
from .modality import Batch, Modality, Transform
from .objective import Objective

# Part of the free memory that examples may be kept in.
SHARE_OF_MEMORY = 0.5
# Key of a batch with the examples that were left out of it.
LEFT_OUT = "left_out"
IN_MEMORY = re.compile(r" <_io\.BytesIO object at 0x[0-9a-f]+>")


@dataclass(frozen=True)
class Unreadable:
    """An example that cannot be read.

    Attributes:
        number: Its row in the data set.
        name: Name of its file; `None` if it has none.
        reason: What its reader said.
    """

    number: int
    name: str | None
    reason: str


@dataclass(frozen=True)
class Origin:
    """Where the examples of a data set come from.

    Attributes:
        split: Name of the split.
        rows: The row of each example in that split.
    """

    split: str
    rows: np.ndarray

    def __getitem__(self, numbers: np.ndarray) -> "Origin":
        return Origin(self.split, self.rows[numbers])

    def name(self, example: Unreadable) -> str:
        """Names an example by its split, its row and, if there is one, its file."""
        place = f"{self.split}[{self.rows[example.number]}]"
        return place if example.name is None else f"{place} ({example.name})"


class LeftOut:
    """The examples of a data set that were left out because they cannot be read.

    Args:
        origin: Where its examples come from.
        largest_share: The share of them, rounded up to whole examples, that may be left out, but never all.

    Attributes:
        limit: The number of examples that may be left out.
    """

    def __init__(self, origin: Origin, largest_share: float):
        self.origin, self.largest_share = origin, largest_share
        self.limit = min(math.ceil(largest_share * len(origin.rows)), len(origin.rows) - 1)
        self._lines: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[str]:
        """Yields the name of each example with the reason."""
        return iter(self._lines.values())

    def add(self, examples: Iterable[Unreadable]) -> None:
        """Says which examples are left out, each once.

        Raises:
            UnreadableError: If there are too many.
        """
        for example in examples:
            if example.number in self._lines:
                continue
            line = f"{self.origin.name(example)}: {example.reason}"
            self._lines[example.number] = line
            tqdm.write(f"perceivers: warning: left out {printable(line)}", file=sys.stderr)
        if len(self) > self.limit:
            raise UnreadableError(
                f"The split {self.origin.split} has {len(self.origin.rows):,} examples, of which {len(self):,} cannot "
                f"be read; `--max_unreadable {self.largest_share:g}` allows {self.limit:,}. The first is "
                f"{next(iter(self))}."
            )


class UnreadableError(ValueError):
    """Too many examples of a data set cannot be read."""


class ExampleDataset(torch.utils.data.Dataset):
    """Rows of a data set as the model's arguments, for the Trainer.

    What `__getitems__` returns has an [`Unreadable`] in the place of an example that cannot be read, and
    [`ExampleCollator`] takes it off.

    Args:
        rows: The rows.
        left_out: Gets the examples that cannot be read from whoever uses the batches.
        modality: Modality of the inputs.
        objective: What is predicted.
        targets: What `objective.load_targets` returned.
        transform: Turns inputs into tensors.
        seed: Seed of everything that varies an input.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        left_out: LeftOut,
        modality: Modality,
        objective: Objective,
        targets: Any,
        transform: Transform,
        seed: int = 0,
    ):
        self.rows, self.left_out, self.transform, self.seed = rows, left_out, transform, seed
        self.modality, self.objective, self.targets = modality, objective, targets
        # Shared, so that worker processes that outlive an epoch see the next.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._kept: KeptExamples | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_readable(self) -> int:
        """Number of examples without those that were left out so far."""
        return len(self) - len(self.left_out)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 0."""
        self._epoch.fill_(epoch)

    def __getitem__(self, draw: int) -> Batch | Unreadable:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[int]) -> list[Batch | Unreadable]:
        """Reads examples.

        Args:
            draws: Rows. Adding a multiple of the length to a row that is drawn again varies it in another way.
        """
        return self._read(draws)

    def _read(self, draws: Sequence[int]) -> list[Batch | Unreadable]:
        if self._kept is None:
            return each(list(draws), self._process, self._unreadable)
        rows = [draw % len(self) for draw in draws]
        missing = [row for row in dict.fromkeys(rows) if row not in self._kept]
        read = {}
        for row, example in zip(missing, each(missing, self._process, self._unreadable), strict=True):
            read[row] = example if isinstance(example, Unreadable) else self._kept.add(row, example)
        kept = self._kept.examples([row for row in rows if row not in read])
        return [read[row] if row in read else next(kept) for row in rows]

    def keep_in_memory(self) -> None:
        """Keeps each example once it was processed, if its transform is not random; worker processes share them.

        If the memory does not hold all, the first ones are kept, and a line says how many.
        """
        if self.transform.is_random or not len(self):
            return
        for number in range(len(self)):
            (example,) = self._read([number])
            if not isinstance(example, Unreadable):
                self._kept = KeptExamples(example, len(self))
                self._kept.add(number, example)
                break
        if self._kept is not None and len(self._kept) < len(self):
            say(
                f"The memory has room for {len(self._kept):,} of {len(self):,} {self.modality.noun}; the others are "
                "read whenever they are needed."
            )

    def _process(self, draws: list[int]) -> list[Batch]:
        rows = self.rows[[draw % len(self) for draw in draws]]
        inputs = self.modality.inputs(rows)
        if self.transform.is_random:
            for position, draw in enumerate(draws):
                with seeded(self.seed, int(self._epoch), draw):
                    inputs[position] = self.transform.augment(inputs[position])
        batch = {**self.transform.process(inputs), **self.objective.labels(rows, self.targets)}
        return [{name: values[position] for name, values in batch.items()} for position in range(len(draws))]

    def _unreadable(self, draw: int, error: Exception) -> Unreadable:
        return unreadable(self.rows, draw % len(self), self.modality, error)


class KeptExamples:
    """Processed examples in memory that all processes of a data loader share: the first ones, as many as fit.

    Args:
        example: One of them, whose shapes and types all have.
        number: Number of examples.
    """

    def __init__(self, example: Batch, number: int):
        tensors = as_tensors(example)
        size = sum(tensor.nbytes for tensor in tensors.values())
        room = int(SHARE_OF_MEMORY * psutil.virtual_memory().available) // size
        self._is_there = torch.zeros(max(1, min(number, room)), dtype=torch.bool).share_memory_()
        self._tensors = {name: self._shared(tensor) for name, tensor in tensors.items()}

    def _shared(self, tensor: torch.Tensor) -> torch.Tensor:
        # Takes no memory before it is written to, and none of `/dev/shm`, of which containers have little.
        memory = mmap.mmap(-1, len(self) * tensor.nbytes)
        return torch.frombuffer(memory, dtype=tensor.dtype).view(len(self), *tensor.shape)

    def __len__(self) -> int:
        return len(self._is_there)

    def __contains__(self, number: int) -> bool:
        return number < len(self) and self._is_there.numpy()[number]

    def add(self, number: int, example: Batch) -> Batch:
        """Keeps an example if there is room for it, and returns it as tensors."""
        tensors = as_tensors(example)
        if number < len(self):
            for name, tensor in self._tensors.items():
                tensor[number] = tensors[name]
            self._is_there[number] = True  # last, as other processes may look
        return tensors

    def examples(self, numbers: list[int]) -> Iterator[Batch]:
        """Yields examples, which are taken out together as that is faster."""
        rows = torch.tensor(numbers, dtype=torch.long)
        columns = [tensor[rows].unbind() for tensor in self._tensors.values()]
        return (dict(zip(self._tensors, values, strict=True)) for values in zip(*columns, strict=True))


def as_tensors(example: Batch) -> Batch:
    """An example whose numbers are tensors too."""
    return {name: torch.as_tensor(value) for name, value in example.items()}


class ReplacingExampleDataset(ExampleDataset):
    """The same with the next example in the place of one that cannot be read, which keeps the size of batches.

    What `__getitems__` returns has the [`Unreadable`] ones at its end.
    """

    def __getitems__(self, draws: Sequence[int]) -> list[Batch | Unreadable]:
        """Reads examples."""
        examples: list[Batch | Unreadable] = []
        replaced: list[Batch | Unreadable] = []
        for draw, example in zip(draws, self._read(draws), strict=True):
            following = itertools.count(draw + 1)
            while isinstance(example, Unreadable):
                replaced.append(example)
                if len(replaced) > self.left_out.limit:  # too many for this data set
                    return [*examples, *replaced]
                (example,) = self._read([next(following)])
            examples.append(example)
        return [*examples, *replaced]


@dataclass
class ExampleCollator:
    """Makes a batch of the readable examples; the others are in its `left_out`.

    Attributes:
        collate: Makes the batch; `None` stacks the tensors.
    """

    collate: Callable[[list], Batch] | None

    def __call__(self, examples: list) -> Batch:
        """Makes the batch, without tensors if no example can be read."""
        readable = [example for example in examples if not isinstance(example, Unreadable)]
        left_out = [example for example in examples if isinstance(example, Unreadable)]
        collate: Callable[[list], Batch] = self.collate or default_data_collator
        batch = collate(readable) if readable else {}
        return {**batch, LEFT_OUT: left_out} if left_out else batch


def each(items: list, process: Callable[[list], list], refuse: Callable[[Any, Exception], Any]) -> list:
    """Processes items together or, if that fails, one by one, with what `refuse` makes of those that fail."""
    if not items:
        return []
    try:
        return process(items)
    except Exception as error:  # a broken file can raise anything in its decoder
        if len(items) == 1:
            return [refuse(items[0], error)]
    return [result for item in items for result in each([item], process, refuse)]


def unreadable(rows: datasets.Dataset, number: int, modality: Modality, error: Exception) -> Unreadable:
    """Names a row whose input cannot be read, without reading it."""
    return Unreadable(number, file_of(rows, number, modality), reason_of(error))


def file_of(rows: datasets.Dataset, number: int, modality: Modality) -> str | None:
    """The file of a row's input, which is not read; `None` if it has none."""
    for column in modality.columns:
        value = rows.select_columns([column]).with_format("arrow")[number][column][0].as_py()
        path = value.get("path") if isinstance(value, dict) else value
        if isinstance(path, str):
            return path
    return None


def reason_of(error: Exception) -> str:
    """What a reader said in one line, without Pillow's names for bytes in memory."""
    return " ".join(IN_MEMORY.sub("", str(error)).split()).rstrip(".") or type(error).__name__


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seeds the generators of Python, NumPy and PyTorch on the CPU, and gives them back their state."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seeds = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(seeds[0])
    np.random.seed(seeds[1])
    torch.default_generator.manual_seed(seeds[2])  # not `torch.manual_seed`, which seeds accelerators too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
