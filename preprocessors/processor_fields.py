"""The fields of feature extractors: which exist, and what a wrong name was meant to be."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

# What transformers itself writes into a saved feature extractor.
TRANSFORMERS_FIELDS = frozenset({"auto_map", "feature_extractor_type", "processor_class"})


def check_fields(kind: type, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuses fields that transformers would store and nobody read.

    Args:
        kind: The class of the feature extractor.
        given: Fields that its constructor does not name.
        known: All fields that it has.

    Raises:
        ValueError: There is no such field. The message names the closest one.
    """
    for name in given:
        if name in known or name in TRANSFORMERS_FIELDS or name.startswith("_"):
            continue
        matches = difflib.get_close_matches(name, list(known), n=1)
        hint = f" (did you mean `{matches[0]}`?)" if matches else ""
        raise ValueError(f"{kind.__name__} has no field `{name}`{hint}.")
