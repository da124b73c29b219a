"""The published structures, from the paper and its configuration files (a test case for every count)."""

from typing import Any

from svkit.config.architecture import W2V_BERT_2

HEADS = (13, 11, 12, 9, 8, 2, 8, 5, 5, 3, 1, 1, 2, 3, 5, 4, 5, 6, 5, 3, 2, 4, 1, 0)
CONVOLUTION = (
    812, 848, 735, 702, 630, 533, 481, 89, 421, 269, 149, 90, 86, 194, 207, 222, 373, 323, 224, 157, 132, 45, 33, 162,
)  # fmt: skip
FFN1 = (
    1662, 2417, 2329, 1847, 1581, 759, 666, 1005, 1717, 639, 323, 194, 63, 103, 483, 420, 596, 854, 707, 359, 232, 200,
    243, 160,
)  # fmt: skip
FFN2 = (
    1916, 1982, 1587, 1189, 679, 330, 828, 55, 518, 328, 118, 40, 94, 218, 182, 441, 669, 795, 509, 370, 297, 331, 224,
    16,
)  # fmt: skip

PRUNED = W2V_BERT_2.with_widths(
    {"num_heads": HEADS, "ffn1_dim": FFN1, "ffn2_dim": FFN2, "conv_dim": CONVOLUTION}
)

STOCK_CONFIGURATION: dict[str, Any] = {
    "model_type": "wav2vec2-bert",
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_act": "swish",
    "position_embeddings_type": "relative_key",
    "left_max_position_embeddings": 64,
    "right_max_position_embeddings": 8,
    "conv_depthwise_kernel_size": 31,
    "feature_projection_input_dim": 160,
    "layer_norm_eps": 1e-5,
    "layerdrop": 0.1,
    "add_adapter": False,
}
PRUNED_CONFIGURATION: dict[str, Any] = {
    **STOCK_CONFIGURATION,
    "num_attention_heads_group": list(HEADS),
    "use_attention": [heads > 0 for heads in HEADS],
    "intermediate_size_group": [list(pair) for pair in zip(FFN1, FFN2, strict=True)],
    "use_feed_forward": [[True, True]] * 24,
    "conv_group": [[channels, channels] for channels in CONVOLUTION],
    "prune": True,
}
