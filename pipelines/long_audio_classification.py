"""Classification of audio longer than a clip, as the paper evaluates AudioSet (arXiv 2103.03206, section 4.2)."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import AudioClassificationPipeline
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pipelines.base import ChunkPipeline

from .scores import default_function, logits_to_scores

CLIPS_PER_BATCH = 32

# Any to type-checkers: the methods below take more arguments than those of transformers' pipelines declare.
Chunks: Any = ChunkPipeline
Stock: Any = AudioClassificationPipeline


class LongAudioClassificationPipeline(Chunks, Stock):
    """Classifies recordings of any length by the mean of the scores of overlapping clips.

    transformers' own `audio-classification` pipeline classifies the first clip only. This one cuts a recording into
    clips with [`AudioPerceiverFeatureExtractor.overlapping_clips`]; `batch_size` is the number of clips in a forward
    pass.

    A recording is anything the feature extractor reads: an array with its rate, a file or a torchcodec decoder. WAV,
    FLAC, OGG and MP3 files do not need FFmpeg.

    Example:
        >>> classify = pipeline(
        ...     "audio-classification", model="perceiver-sounds", pipeline_class=LongAudioClassificationPipeline
        ... )
        >>> classify("recording.flac", num_clips=16)[0].keys()
        dict_keys(['score', 'label'])
    """

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classifies one recording or each of a list, data set or generator of recordings.

        Args:
            inputs: One recording or several, see above.
            **kwargs: `num_clips`, the number of clips in a recording: 16 in the paper; by default as few as overlap
                by half. `batch_size`, 32 by default, `top_k` and `function_to_apply` are those of transformers'
                pipeline.

        Returns:
            For each recording a list of dictionaries with a `label` and a `score`, highest score first.
        """
        if self._batch_size is None:  # one clip at a time takes several times as long
            kwargs.setdefault("batch_size", CLIPS_PER_BATCH)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, num_clips: int | None = None, **kwargs):
        if unknown := kwargs.keys() - {"top_k", "function_to_apply"}:  # transformers ignores them
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(sorted(unknown))}")
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        return {**preprocess, "num_clips": num_clips}, forward, postprocess

    def preprocess(self, inputs: Any, num_clips: int | None = None) -> Iterator[dict[str, Any]]:
        """Yields the features of each clip of one recording; `is_last` marks its last clip."""
        extractor: Any = self.feature_extractor
        clips = extractor.overlapping_clips(inputs, num_clips=num_clips)
        for index, clip in enumerate(clips):
            features = extractor(clip, sampling_rate=extractor.sampling_rate, return_tensors="pt")
            yield {"is_last": index == len(clips) - 1, **features.to(self.dtype)}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        is_last = model_inputs.pop("is_last")
        return {"is_last": is_last, "logits": self.model(**model_inputs).logits}

    def postprocess(
        self, model_outputs: list[dict[str, Any]], top_k: int = 5, function_to_apply: str | None = None
    ) -> list[dict[str, Any]]:
        """Averages the scores of the clips of one recording and returns the `top_k` highest with their labels."""
        logits = torch.cat([clip["logits"] for clip in model_outputs]).float()
        function = function_to_apply or default_function(self.model.config.problem_type)
        scores = logits_to_scores(logits, function).mean(dim=0, keepdim=True)
        return super().postprocess(SequenceClassifierOutput(logits=scores), top_k=top_k, function_to_apply="none")


__all__ = ["LongAudioClassificationPipeline"]
