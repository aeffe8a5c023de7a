"""The task `point-cloud-classification`, which transformers has no pipeline for."""

from typing import Any

import numpy as np
from transformers import Pipeline
from transformers.feature_extraction_utils import BatchFeature
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils import ModelOutput

from .call_arguments import check_arguments
from .scores import Function, default_function, logits_to_scores

# Any to type-checkers: the annotations of transformers' class admit neither a task's arguments nor its components.
Base: Any = Pipeline


class PointCloudClassificationPipeline(Base):
    """Classifies point clouds.

    A point cloud is an array, tensor or nested list (points, 3 + features), or a file in any form that the feature
    extractor reads: its path, URL or content, or a dictionary with these. A mapping with the cloud under `points`
    works too, and so does a data set with such a column.

    Example:
        >>> classify = pipeline("point-cloud-classification", model="perceiver-shapes")
        >>> classify("scan.ply", top_k=1)[0].keys()
        dict_keys(['label', 'score'])
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = True
    _load_tokenizer = False

    def _sanitize_parameters(self, **given):
        check_arguments(type(self).__name__, given, ("top_k", "function_to_apply"))
        return {}, {}, {name: value for name, value in given.items() if value is not None}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classifies one cloud or each of a list, data set or generator of clouds.

        Args:
            inputs: One cloud or several, see above. An array (clouds, points, 3 + features) is several clouds.
            **kwargs: `top_k`, the largest number of labels to return, 5 by default; `function_to_apply` to the logits,
                `"softmax"`, `"sigmoid"` or `"none"`, by default the one for the model's problem type; `batch_size`,
                the number of clouds in a forward pass. Clouds of different sizes are padded, which changes no score.

        Returns:
            For each cloud a list of dictionaries with a `label` and a `score`, highest score first.

        Raises:
            TypeError: There is no such argument.
            ValueError: `top_k` is below 1, or a cloud cannot be read.
        """
        if getattr(inputs, "ndim", 0) == 3:
            inputs = list(inputs)
        elif hasattr(inputs, "column_names"):  # transformers takes a data set of the datasets library for one input
            inputs = KeyDataset(inputs, "points")
        elif isinstance(inputs, list | tuple) and inputs and is_point(inputs[0]):
            inputs = np.array(inputs)  # otherwise each point would count as a cloud
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: Any) -> BatchFeature:
        """Turns one cloud into the model's inputs."""
        # float32 whatever the model's dtype: half precision cannot hold the angles of high frequencies.
        return self.feature_extractor(inputs, return_tensors="pt")

    def _forward(self, inputs: BatchFeature) -> ModelOutput:
        return self.model(**inputs)

    def postprocess(
        self, outputs: ModelOutput, top_k: int = 5, function_to_apply: Function | None = None
    ) -> list[dict[str, Any]]:
        """Returns the `top_k` labels with the highest scores.

        Raises:
            ValueError: There is no such `function_to_apply`.
        """
        logits = outputs["logits"][0].float()
        scores = logits_to_scores(logits, function_to_apply or self.default_function())
        best = scores.topk(min(top_k, len(scores)))
        labels = self.model.config.id2label
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [{"label": labels[index], "score": score} for score, index in pairs]

    def default_function(self) -> Function:
        """Returns the function for the model's problem type; sigmoid for a single label, as for text and images."""
        config = self.model.config
        if config.num_labels == 1 and config.problem_type != "regression":
            return "sigmoid"
        return default_function(config.problem_type)


def is_point(values: Any) -> bool:
    """Whether this is a list of numbers."""
    return isinstance(values, list | tuple) and bool(values) and isinstance(values[0], int | float)


__all__ = ["PointCloudClassificationPipeline"]
