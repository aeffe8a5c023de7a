"""Classification of audio longer than a clip, as the paper evaluates AudioSet (arXiv 2103.03206, section 4.2)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import AudioClassificationPipeline
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pipelines.base import ChunkPipeline

from .call_arguments import check_arguments
from .scores import default_function, logits_to_scores

CLIPS_PER_BATCH = 32

# Any to type-checkers: the methods below take more arguments than those of transformers' pipelines declare.
Chunks: Any = ChunkPipeline
Stock: Any = AudioClassificationPipeline


class LongAudioClassificationPipeline(Chunks, Stock):
    """Classifies recordings of any length by the mean of the scores of overlapping clips.

    transformers' own `audio-classification` pipeline classifies the first clip only. This one cuts a recording into
    clips as [`AudioPerceiverFeatureExtractor.overlapping_clips`] does; `batch_size` is the number of clips in a
    forward pass.

    A recording is anything the feature extractor reads: an array with its rate, a file or a torchcodec decoder. WAV,
    FLAC, OGG and MP3 files do not need FFmpeg.

    Example:
        >>> classify = pipeline(
        ...     "audio-classification", model="perceiver-sounds", pipeline_class=LongAudioClassificationPipeline
        ... )
        >>> classify("recording.flac", num_clips=16)[0].keys()
        dict_keys(['score', 'label'])
        >>> classify("recording.flac", timeline=True)[0].keys()
        dict_keys(['start', 'end', 'label', 'score'])
    """

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classifies one recording or each of a list, data set or generator of recordings.

        Args:
            inputs: One recording or several, see above.
            **kwargs: `num_clips`, the number of clips in a recording, or as many as cover it, if those are more: 16 in
                the paper; by default as few as overlap by half. `timeline=True` asks for the answers for the clips
                themselves. `batch_size`, 32 by default, `top_k` and `function_to_apply` are those of transformers'
                pipeline; in a timeline, `top_k` is 1 by default.

        Returns:
            For each recording a list of dictionaries with a `label` and a `score`, highest score first. With
            `timeline`, one for each of the `top_k` labels of each clip, in the order of the clips, which also has the
            clip's `start` and `end` in seconds.

        Raises:
            TypeError: There is no such argument.
            ValueError: An argument has a value that it cannot have, or a recording cannot be read.
        """
        if self._batch_size is None:  # one clip at a time takes several times as long
            kwargs.setdefault("batch_size", CLIPS_PER_BATCH)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, num_clips: int | None = None, timeline: bool = False, **kwargs):
        known = ("num_clips", "timeline", "top_k", "function_to_apply")
        check_arguments(type(self).__name__, kwargs, known)
        if timeline:
            kwargs.setdefault("top_k", 1)
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        return {**preprocess, "num_clips": num_clips}, forward, {**postprocess, "timeline": timeline}

    def preprocess(self, inputs: Any, num_clips: int | None = None) -> Iterator[dict[str, Any]]:
        """Yields the features of each clip of one recording, and its `span` in seconds; `is_last` marks the last."""
        extractor: Any = self.feature_extractor
        rate = extractor.sampling_rate
        waveform = extractor.waveform(inputs)
        starts = extractor.clip_starts(len(waveform), num_clips)
        for first in range(0, len(starts), CLIPS_PER_BATCH):  # one by one takes twice as long
            group = starts[first : first + CLIPS_PER_BATCH]
            clips = [waveform[start : start + extractor.num_samples].numpy() for start in group]
            features = extractor(clips, sampling_rate=rate, return_tensors="pt").to(self.dtype)
            for index, (start, clip) in enumerate(zip(group, clips, strict=True)):
                yield {
                    "is_last": first + index == len(starts) - 1,
                    "span": (start / rate, (start + len(clip)) / rate),
                    **{name: values[index : index + 1] for name, values in features.items()},
                }

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        kept = {name: model_inputs.pop(name) for name in ("is_last", "span")}
        # An hour has thousands of clips, and arrays are smaller than tensors.
        return {**kept, "logits": self.model(**model_inputs).logits.float().numpy(force=True)}

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        top_k: int = 5,
        function_to_apply: str | None = None,
        timeline: bool = False,
    ) -> list[dict[str, Any]]:
        """Returns the `top_k` labels with the highest mean scores of the clips of one recording, or of each clip."""
        logits = torch.from_numpy(np.concatenate([clip["logits"] for clip in model_outputs]))
        function = function_to_apply or default_function(self.model.config.problem_type)
        scores = logits_to_scores(logits, function)
        if not timeline:
            return self._best(scores.mean(dim=0), top_k)
        spans = [clip["span"] for clip in model_outputs]
        return [
            {"start": start, "end": end, "label": row["label"], "score": row["score"]}
            for (start, end), clip in zip(spans, scores, strict=True)
            for row in self._best(clip, top_k)
        ]

    def _best(self, scores: torch.Tensor, top_k: int) -> list[dict[str, Any]]:
        """The `top_k` highest of scores (labels,) with their labels."""
        output = SequenceClassifierOutput(logits=scores.unsqueeze(0))
        return super().postprocess(output, top_k=top_k, function_to_apply="none")


__all__ = ["LongAudioClassificationPipeline"]
