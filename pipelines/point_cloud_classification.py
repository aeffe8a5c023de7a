"""The task `point-cloud-classification`, which transformers has no pipeline for."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from transformers import Pipeline
from transformers.feature_extraction_utils import BatchFeature
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils import ModelOutput

Function = Literal["softmax", "sigmoid", "none"]

# To type-checkers Any: the annotations of transformers' class admit neither arguments of a task nor its components.
Base: Any = Pipeline


class PointCloudClassificationPipeline(Base):
    """Puts point clouds into classes.

    A cloud is an array, tensor or nested list (points, 3 + features), or the path or URL of a file that the feature
    extractor reads; a mapping with the cloud under `points`, and a data set with such a column, will do as well.

    Example:
        >>> classify = pipeline("point-cloud-classification", model="perceiver-shapes")
        >>> classify("scan.ply", top_k=1)
        [{'label': 'torus', 'score': 0.98}]
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = True
    _load_tokenizer = False

    def _sanitize_parameters(self, top_k: int | None = None, function_to_apply: Function | None = None):
        given = {"top_k": top_k, "function_to_apply": function_to_apply}
        return {}, {}, {name: value for name, value in given.items() if value is not None}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classifies one cloud, or each of a list, data set or generator of clouds.

        Args:
            inputs: as above; an array (clouds, points, 3 + features) is many clouds.
            top_k: how many labels to return, at most; 5 if not given.
            function_to_apply: to the logits, `"softmax"`, `"sigmoid"` or `"none"`; by the model's problem type if not
                given.
            batch_size: clouds to classify at a time. Those of different sizes are padded, which changes no score.

        Returns: for each cloud a list of mappings with a `label` and a `score`, best first.
        """
        if getattr(inputs, "ndim", 0) == 3:
            inputs = list(inputs)
        elif hasattr(inputs, "column_names"):  # of the datasets library, which transformers takes for one input
            inputs = KeyDataset(inputs, "points")
        elif isinstance(inputs, list | tuple) and inputs and is_point(inputs[0]):
            inputs = np.array(inputs)  # or each of its points would be taken for a cloud
        return super().__call__(inputs, **kwargs)

    def preprocess(self, inputs: Any) -> BatchFeature:
        cloud = inputs["points"] if isinstance(inputs, Mapping) else inputs
        # In float32 whatever the model's type, as half precision cannot hold the angles of high frequencies.
        return self.feature_extractor(cloud, return_tensors="pt")

    def _forward(self, inputs: BatchFeature) -> ModelOutput:
        return self.model(**inputs)

    def postprocess(
        self, outputs: ModelOutput, top_k: int = 5, function_to_apply: Function | None = None
    ) -> list[dict[str, Any]]:
        logits = outputs["logits"][0].float()
        scores = self.scores(logits, function_to_apply or self.usual_function())
        best = scores.topk(min(top_k, len(scores)))
        labels = self.model.config.id2label
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [{"label": labels[index], "score": score} for score, index in pairs]

    def usual_function(self) -> Function:
        """What makes scores of logits, by the model's problem type."""
        config = self.model.config
        if config.problem_type == "regression":
            return "none"
        return (
            "sigmoid" if config.problem_type == "multi_label_classification" or config.num_labels == 1 else "softmax"
        )

    @staticmethod
    def scores(logits: torch.Tensor, function_to_apply: Function) -> torch.Tensor:
        """
        Raises:
            ValueError: for another function.
        """
        if function_to_apply == "softmax":
            return logits.softmax(-1)
        if function_to_apply == "sigmoid":
            return logits.sigmoid()
        if function_to_apply == "none":
            return logits
        raise ValueError(f"`function_to_apply` must be softmax, sigmoid or none, got {function_to_apply!r}.")


def is_point(values: Any) -> bool:
    """Whether it is a list of numbers."""
    return isinstance(values, list | tuple) and bool(values) and isinstance(values[0], int | float)


__all__ = ["PointCloudClassificationPipeline"]
