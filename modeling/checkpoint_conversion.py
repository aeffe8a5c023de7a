"""Between this package's layout and that of transformers' own Perceivers for images, which DeepMind's weights have.

Three classes of transformers are Perceiver IO for images. What tells them apart is written in their code and not in
their configurations, so here it is a table. A model that is converted both ways is the same to the bit.

The classes never read `layer_norm_eps`: their layer norms have PyTorch's own, 1e-5.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from transformers import PerceiverConfig, PreTrainedConfig

if TYPE_CHECKING:
    from .configuration_image_perceiver import ImagePerceiverConfig

# In our fields, what the code of all three classes fixes, and what that of each.
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

# Their name, our name, for fields that say the same.
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

# What every configuration of transformers has; the class that saves a model writes `architectures` itself.
COMMON_FIELDS = {field.name for field in fields(PreTrainedConfig)} - {"architectures"}

# Parts of a key, theirs and ours, to be replaced one after the other; the other way, in the opposite order. No part of
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
# The same for `from_pretrained`, as regular expressions. It leaves keys of our own layout alone.
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
    """Whether a saved configuration is of one of transformers' own Perceivers."""
    return config_dict.get("model_type") == PerceiverConfig.model_type


def config_from_transformers(config_dict: dict[str, Any]) -> dict[str, Any]:
    """The fields of an [`ImagePerceiverConfig`] from the saved configuration of one of transformers' Perceivers.

    Raises:
        ValueError: if the configuration is not of an image classifier, or a field has a value that we cannot express;
            the message names the architecture or the field.
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
        # The other two classes are made for this size, whatever the field says: it is in their position encoding.
        "image_size": theirs.image_size if FIXED_BY_CLASS[name]["position_encoding"] == "learned" else 224,
    }


def config_to_transformers(config: "ImagePerceiverConfig") -> PerceiverConfig:
    """The configuration, `architectures` included, of the class of transformers that computes the same.

    Raises:
        ValueError: if none does; the message names the field in the way.
    """
    name = CLASS_OF_STEM[config.stem]
    for field, required in {**FIXED_BY_ALL, **FIXED_BY_CLASS[name]}.items():
        actual = getattr(config, field)
        if field == "max_resolution":
            actual, required = config.max_resolutions, (required,) * config.num_axes
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
    """Their `qk_channels` and `v_channels` are those of the self-attention, too, and there must fit the latents."""
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


def _widths_to_transformers(config: "ImagePerceiverConfig") -> dict[str, Any]:
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
