"""Conversion between this package's layout and that of transformers' own Perceivers for images.

DeepMind's weights are published in the latter. Three classes of transformers are Perceiver IO for images. They differ
in their code and not in their configurations, so the differences are a table here. A model that is converted both ways
is the same to the bit.

The classes never read `layer_norm_eps`: their layer norms have PyTorch's default, 1e-5.
"""

from dataclasses import fields
from typing import Any

from transformers import PerceiverConfig, PreTrainedConfig

from .configuration_iterative_perceiver import IterativePerceiverConfig

# In our fields, what the code of all three classes fixes, and what each class fixes.
FIXED_BY_ALL: dict[str, Any] = {
    "head": "query",
    "num_cross_attends": 1,
    "share_blocks": True,
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
}
FIXED_BY_CLASS: dict[str, dict[str, Any]] = {
    "PerceiverForImageClassificationFourier": {
        "stem": "pixels",
        "position_encoding": "fourier",
        "num_frequency_bands": 64,
        "max_resolution": 224,
    },
    "PerceiverForImageClassificationLearned": {
        "stem": "conv1x1",
        "stem_channels": 256,
        "position_encoding": "learned",
        "learned_position_channels": 256,
        "position_projection_channels": 256,
    },
    "PerceiverForImageClassificationConvProcessing": {
        "stem": "conv",
        "stem_channels": 64,
        "position_encoding": "fourier",
        "num_frequency_bands": 64,
        "max_resolution": 56,
    },
}
CLASS_OF_STEM = {fixed["stem"]: name for name, fixed in FIXED_BY_CLASS.items()}

# Their name and our name of fields with the same meaning.
RENAMED_FIELDS = {
    "num_latents": "num_latents",
    "d_latents": "d_latents",
    "num_blocks": "num_blocks",
    "num_self_attends_per_block": "num_self_attends_per_block",
    "num_self_attention_heads": "num_self_attention_heads",
    "num_cross_attention_heads": "num_cross_attention_heads",
    "self_attention_widening_factor": "self_attention_widening_factor",
    "cross_attention_widening_factor": "cross_attention_widening_factor",
    "hidden_act": "hidden_act",
    "initializer_range": "initializer_range",
    "attention_probs_dropout_prob": "attention_dropout",
}

# Fields of every configuration of transformers; the class that saves a model writes `architectures` itself.
COMMON_FIELDS = {field.name for field in fields(PreTrainedConfig)} - {"architectures"}

# Parts of a key, theirs and ours, replaced one after the other; for the other direction, in reverse order. No part of
# one layout occurs in the keys of the other.
RENAMED_KEYS = (
    ("perceiver.embeddings.latents", "perceiver.encoder.latents"),
    ("perceiver.input_preprocessor.convnet_1x1.", "perceiver.inputs.stem.projection."),
    ("perceiver.input_preprocessor.convnet.conv.", "perceiver.inputs.stem.conv."),
    ("perceiver.input_preprocessor.convnet.batchnorm.", "perceiver.inputs.stem.norm."),
    ("perceiver.input_preprocessor.position_embeddings.position_embeddings", "perceiver.inputs.positions.table"),
    ("perceiver.input_preprocessor.positions_projection.", "perceiver.inputs.positions.projection."),
    ("perceiver.encoder.cross_attention.", "perceiver.encoder.cross_attends.0."),
    ("perceiver.encoder.self_attends.", "perceiver.encoder.blocks.0."),
    ("perceiver.decoder.decoder.output_position_encodings.position_embeddings", "pooler.query"),
    ("perceiver.decoder.decoder.decoding_cross_attention.", "pooler.cross_attend."),
    ("perceiver.decoder.decoder.final_layer.", "classifier."),
    (".attention.self.layernorm1.", ".attention_norm."),
    (".attention.self.layernorm2.", ".attention.inputs_norm."),
    (".attention.self.query.", ".attention.q_proj."),
    (".attention.self.key.", ".attention.k_proj."),
    (".attention.self.value.", ".attention.v_proj."),
    (".attention.output.dense.", ".attention.o_proj."),
    (".layernorm.", ".mlp_norm."),
    (".mlp.dense1.", ".mlp.fc1."),
    (".mlp.dense2.", ".mlp.fc2."),
)
# The same for `from_pretrained`, as regular expressions. Keys of our own layout stay unchanged.
KEY_MAPPING = {theirs.replace(".", r"\."): ours.replace(".", r"\.") for theirs, ours in RENAMED_KEYS}


def key_from_transformers(key: str) -> str:
    """Our name of a parameter or buffer of one of transformers' classes."""
    for theirs, ours in RENAMED_KEYS:
        key = key.replace(theirs, ours)
    return key


def key_to_transformers(key: str) -> str:
    """The inverse of [`key_from_transformers`]."""
    for theirs, ours in reversed(RENAMED_KEYS):
        key = key.replace(ours, theirs)
    return key


def is_transformers_perceiver(config_dict: dict[str, Any]) -> bool:
    """Whether a saved configuration belongs to one of transformers' own Perceivers."""
    return config_dict.get("model_type") == PerceiverConfig.model_type


def config_from_transformers(config_dict: dict[str, Any]) -> dict[str, Any]:
    """The fields of an [`ImagePerceiverConfig`] from the saved configuration of one of transformers' Perceivers.

    Raises:
        ValueError: If the configuration is not that of an image classifier, or a field has a value that we cannot
            express; the message names the architecture or the field.
    """
    name = _architecture(config_dict)
    theirs = PerceiverConfig.from_dict(config_dict)
    if not theirs.use_query_residual:
        raise ValueError("A Perceiver with `use_query_residual=False` cannot be converted: ours adds the residual.")
    return {
        **{key: config_dict[key] for key in COMMON_FIELDS if key in config_dict},
        **{ours: getattr(theirs, field) for field, ours in RENAMED_FIELDS.items()},
        **FIXED_BY_ALL,
        **FIXED_BY_CLASS[name],
        **_widths_from_transformers(theirs),
        # The other two classes have a fixed size, whatever the field says: it is part of their position encoding.
        "image_size": theirs.image_size if FIXED_BY_CLASS[name]["position_encoding"] == "learned" else 224,
    }


def config_to_transformers(config: IterativePerceiverConfig) -> PerceiverConfig:
    """The configuration, `architectures` included, of the class of transformers that computes the same.

    Args:
        config: An [`ImagePerceiverConfig`].

    Raises:
        ValueError: If no class does; the message names the field that prevents it.
    """
    (shape,) = config.stream_shapes
    name = CLASS_OF_STEM[config.stem]
    for field, required in {**FIXED_BY_ALL, **FIXED_BY_CLASS[name]}.items():
        actual = getattr(config, field)
        if field == "max_resolution":
            actual, required = shape.max_resolutions, (required,) * shape.num_axes
        is_unshared_but_single = field == "share_blocks" and config.num_blocks == 1
        if actual != required and not is_unshared_but_single:
            raise ValueError(f"transformers' {name} has `{field}={required!r}`, got `{field}={actual!r}`.")
    if config.position_encoding == "learned" and len(set(config.image_sizes)) > 1:
        raise ValueError(f"transformers' {name} has a square `image_size`, got `image_size={config.image_size!r}`.")
    return PerceiverConfig(
        **{field: getattr(config, ours) for field, ours in RENAMED_FIELDS.items()},
        **_widths_to_transformers(config),
        image_size=config.image_sizes[0],
        architectures=[name],
        id2label=config.id2label,
        label2id=config.label2id,
        problem_type=config.problem_type,
        dtype=config.dtype,
    )


def _architecture(config_dict: dict[str, Any]) -> str:
    names = config_dict.get("architectures") or ["a configuration without `architectures`"]
    if names[0] not in FIXED_BY_CLASS:
        raise ValueError(f"Only {', '.join(FIXED_BY_CLASS)} can be converted, got {names[0]}.")
    return names[0]


def _widths_from_transformers(theirs: PerceiverConfig) -> dict[str, int | None]:
    """Their `qk_channels` and `v_channels` also apply to the self-attention, where they must fit the latents."""
    shape = theirs.cross_attention_shape_for_attention
    if shape not in ("q", "kv"):
        raise ValueError(f'`cross_attention_shape_for_attention` must be "q" or "kv", got {shape!r}.')
    for field in ("qk_channels", "v_channels"):
        if getattr(theirs, field) not in (None, theirs.d_latents):
            raise ValueError(
                f"A Perceiver whose `{field}` is not its `d_latents` cannot be converted: ours has one such field for "
                f"the cross-attention alone. Got {field}={getattr(theirs, field)} and d_latents={theirs.d_latents}."
            )
    qk_channels = theirs.d_latents if shape == "q" else theirs.qk_channels
    return {"qk_channels": qk_channels, "v_channels": theirs.v_channels or qk_channels}


def _widths_to_transformers(config: IterativePerceiverConfig) -> dict[str, Any]:
    widths: dict[tuple[int, int], dict[str, Any]] = {
        (config.input_channels, config.input_channels): {"cross_attention_shape_for_attention": "kv"},
        (config.input_channels, config.d_latents): {"v_channels": config.d_latents},
        (config.d_latents, config.d_latents): {"cross_attention_shape_for_attention": "q"},
    }
    got = config.cross_qk_channels, config.cross_v_channels
    if got not in widths:
        raise ValueError(
            f"transformers' Perceivers have `qk_channels` and `v_channels` among {list(widths)}, got {got}."
        )
    return widths[got]


__all__ = [
    "KEY_MAPPING",
    "config_from_transformers",
    "config_to_transformers",
    "is_transformers_perceiver",
    "key_from_transformers",
    "key_to_transformers",
]
