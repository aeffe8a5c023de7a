"""How many floating-point operations a forward pass takes, counted as the papers count them.

Source: the counts printed in *Perceiver*, arXiv 2103.03206, tables 5 to 7, and for the Perceiver in *Perceiver IO*,
arXiv 2107.14795, tables 7 and 10, which these formulas reproduce to the last printed digit.

Counted, a multiplication and an addition as two operations:
    - every matrix product: queries, keys, values, scores, the weighted sums of the values, the outputs, the MLPs, the
      classifier;
    - the softmax, three operations per score.

Not counted: layer norms, activations, biases, residual additions, the mean over the latents, and the positions.

The count is for the paper's form of the model: every cross-attend computes keys and values of all inputs, even if it
shares its weights with the one before, and scores every input densely. The implementation that runs may reach the same
answer with fewer operations.

Letters: N latents of D channels, M inputs of C channels, H heads, Q and V the channels of keys and of values over all
heads, W the widening factor of the MLP.
"""

from .configuration_iterative_perceiver import IterativePerceiverConfig

OPERATIONS_PER_SCORE = 3  # of a softmax: subtract the maximum, exponentiate, divide


def cross_attend_flops(config: IterativePerceiverConfig, num_inputs: int) -> int:
    """FLOPs of one cross-attend of one example: 2MC(Q + V) + 2ND(Q + V) + 2NM(Q + V) + 3HNM + 4WNDD.

    Args:
        config: Of the model.
        num_inputs: M.

    Raises:
        ValueError: If there is less than one input.
    """
    if num_inputs < 1:
        raise ValueError(f"`num_inputs` must be at least 1, got {num_inputs}.")
    latents, width = config.num_latents, config.d_latents
    channels = config.cross_qk_channels + config.cross_v_channels
    keys_and_values = 2 * num_inputs * config.input_channels * channels
    queries_and_outputs = 2 * latents * width * channels
    scores_and_sums = 2 * latents * num_inputs * channels
    softmax = OPERATIONS_PER_SCORE * config.num_cross_attention_heads * latents * num_inputs
    mlp = 4 * config.cross_attention_widening_factor * latents * width**2
    return keys_and_values + queries_and_outputs + scores_and_sums + softmax + mlp


def self_attend_flops(config: IterativePerceiverConfig) -> int:
    """FLOPs of one layer of the latent transformer of one example: 8NDD + 4NND + 3HNN + 4WNDD."""
    latents, width = config.num_latents, config.d_latents
    projections = 8 * latents * width**2
    scores_and_sums = 4 * latents**2 * width
    softmax = OPERATIONS_PER_SCORE * config.num_self_attention_heads * latents**2
    mlp = 4 * config.self_attention_widening_factor * latents * width**2
    return projections + scores_and_sums + softmax + mlp


def head_flops(config: IterativePerceiverConfig) -> int:
    """FLOPs of the head of one example: 2 D `num_labels` of the classifier.

    With `head="query"`, also 4NDD + 4DD + 4ND + 3N + 4DD of the cross-attend from one query to the latents.
    """
    latents, width = config.num_latents, config.d_latents
    classifier = 2 * width * (config.num_labels or 0)
    if config.head == "mean":
        return classifier
    projections = 4 * latents * width**2 + 4 * width**2
    scores_and_sums = 4 * latents * width + OPERATIONS_PER_SCORE * latents
    mlp = 4 * width**2
    return classifier + projections + scores_and_sums + mlp


def forward_flops(config: IterativePerceiverConfig, num_inputs: int) -> int:
    """FLOPs of a forward pass of one example through a classifier: 707.2 billion for the paper's ImageNet model.

    Args:
        config: Of the model.
        num_inputs: M, such as height * width of an image.

    Raises:
        ValueError: If there is less than one input.

    Example:
        >>> forward_flops(ImagePerceiverConfig.from_variant("imagenet-fourier"), num_inputs=224 * 224)
        707197648896
    """
    cross_attends = config.num_cross_attends * cross_attend_flops(config, num_inputs)
    self_attends = config.num_blocks * config.num_self_attends_per_block * self_attend_flops(config)
    return cross_attends + self_attends + head_flops(config)


__all__ = ["cross_attend_flops", "forward_flops", "head_flops", "self_attend_flops"]
