"""Classification of recordings longer than a clip, as the paper evaluates AudioSet (arXiv 2103.03206, section 4.2)."""

from typing import Any

import torch
from transformers import AudioClassificationPipeline
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pipelines.base import ChunkPipeline

SCORES = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(dim=-1),
    "none": lambda logits: logits,
}
# To type-checkers Any, as the stock pipelines' methods say less of their arguments than these do.
Chunks: Any = ChunkPipeline
Stock: Any = AudioClassificationPipeline
FUNCTIONS = {"multi_label_classification": "sigmoid", "regression": "none"}


class RecordingClassificationPipeline(Chunks, Stock):
    r"""
    transformers' `audio-classification` pipeline for recordings of any length: the mean of the scores of overlapping
    clips, see [`AudioPerceiverFeatureExtractor.overlapping_clips`], where the stock one takes the first clip alone.
    `batch_size` is the number of clips that the model sees at once.

    Recordings are what the feature extractor reads: besides arrays with their rate, files and torchcodec decoders;
    WAV, FLAC, OGG and MP3 do not need FFmpeg.

    Args (of a call):
        num_clips (`int`, *optional*): clips of a recording, 16 in the paper; `None` takes as few as overlap by half.
        top_k, function_to_apply: as the stock pipeline's.

    Example:
        >>> classify = pipeline(model="perceiver-sounds", pipeline_class=RecordingClassificationPipeline)
        >>> classify("recording.flac", num_clips=16)
    """

    def _sanitize_parameters(self, num_clips: int | None = None, **kwargs):
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        return {**preprocess, "num_clips": num_clips}, forward, postprocess

    def preprocess(self, inputs: Any, num_clips: int | None = None):
        extractor: Any = self.feature_extractor
        clips = extractor.overlapping_clips(inputs, num_clips=num_clips)
        for index, clip in enumerate(clips):
            features = extractor(clip, sampling_rate=extractor.sampling_rate, return_tensors="pt")
            yield {"is_last": index == len(clips) - 1, **features.to(self.dtype)}

    def _forward(self, model_inputs: dict[str, Any]):
        is_last = model_inputs.pop("is_last")
        return {"is_last": is_last, "logits": self.model(**model_inputs).logits}

    def postprocess(self, model_outputs: list[dict[str, Any]], top_k: int = 5, function_to_apply: str | None = None):
        logits = torch.cat([clip["logits"] for clip in model_outputs]).float()
        function = function_to_apply or FUNCTIONS.get(self.model.config.problem_type, "softmax")
        scores = SequenceClassifierOutput(logits=SCORES[function](logits).mean(dim=0, keepdim=True))
        return super().postprocess(scores, top_k=top_k, function_to_apply="none")


__all__ = ["RecordingClassificationPipeline"]
