"""The arguments of a pipeline's call, which transformers would pass on or ignore unchecked."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def check_arguments(pipeline: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuses arguments that a pipeline does not have, and a `top_k` below 1.

    Args:
        pipeline: What to call the pipeline.
        given: The arguments.
        known: The names of those it has, in addition to `batch_size`, which every pipeline has.

    Raises:
        TypeError: It does not have one of them. The message names the closest that it has.
        ValueError: `top_k` is below 1.
    """
    known = [*known, "batch_size"]
    for name in given:
        if name not in known:
            closest = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean `{closest[0]}`?)" if closest else ""
            raise TypeError(f"{pipeline} has no argument `{name}`{hint}; it has {', '.join(known)}.")
    if (top_k := given.get("top_k")) is not None and top_k < 1:
        raise ValueError(f"`top_k` must be at least 1, got {top_k}.")
