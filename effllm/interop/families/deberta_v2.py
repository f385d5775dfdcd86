"""deberta-v2 (and v3, which is the same architecture): BERT's arrangement with disentangled attention."""

from typing import Any

from effllm.interop.families import bert
from effllm.interop.families.settings import only
from effllm.interop.layout import Tensor, embedding, linear, norm
from effllm.nn import DisentangledAttention, DistanceEmbedding, EncoderLM, LayerNorm, Learned, PostNormBlock

TYPES = ("deberta-v2",)
PREFIX = "deberta."
IGNORED = (*bert.ignored(PREFIX), "lm_predictions.*", "mask_predictions.*", "pooler.*")
TOP = (*bert.top(PREFIX), *embedding("deberta.encoder.rel_embeddings", "embed_distance"), *norm("deberta.encoder.LayerNorm", "embed_distance.distance_norm"))


def block_tensors(block: PostNormBlock) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    layer = "deberta.encoder.layer.{}"
    pairs = ("query", "q"), ("key", "k"), ("value", "v"), ("pos_query", "q_distance"), ("pos_key", "k_distance")
    projections = (linear(f"{layer}.attention.self.{theirs}_proj", f"mixer.{ours}") for theirs, ours in pairs)
    output = linear(f"{layer}.attention.output.dense", "mixer.output")
    return *sum(projections, ()), *output, *norm(f"{layer}.attention.output.LayerNorm", "mixer_norm"), *bert.ffn_tensors(layer)


def model_of(config: dict[str, Any]) -> EncoderLM:
    """The EncoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    width, layer_norm = config["hidden_size"], LayerNorm(config.get("layer_norm_eps", 1e-7))
    only({"relative_attention": False} | config, relative_attention=True, legacy=True, conv_kernel_size=0, embedding_size=width)
    only(config, attention_head_size=width // config["num_attention_heads"])
    terms = config.get("pos_att_type") or []
    if {term.strip() for term in (terms.lower().split("|") if isinstance(terms, str) else terms)} != {"c2p", "p2c"}:
        raise ValueError(f"pos_att_type={terms!r}: the deberta-v2 family is covered with c2p and p2c together")
    normalised = config.get("norm_rel_ebd", "none")
    if normalised not in ("none", "layer_norm"):
        raise ValueError(f"norm_rel_ebd={normalised!r} is not covered; 'none' and 'layer_norm' are")
    reach, buckets = config.get("max_relative_positions", -1), config.get("position_buckets", -1)
    reach = config["max_position_embeddings"] if reach < 1 else reach
    buckets, max_distance = (buckets, reach) if buckets > 0 else (reach, None)
    mixer = DisentangledAttention(config["num_attention_heads"], buckets, max_distance, config.get("share_att_key", False), bias=True)
    return bert.of(
        {"type_vocab_size": 0, "layer_norm_eps": layer_norm.eps} | config, mixer,
        input_position=Learned(config["max_position_embeddings"]) if config.get("position_biased_input", True) else None,
        distances=DistanceEmbedding(buckets, layer_norm if normalised == "layer_norm" else None),
    )  # fmt: skip


def config_of(model: EncoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model for texts of `context` tokens. Raises ValueError for blocks unlike this family's."""
    mixer, said = bert.said_of(model.clone(input_position=model.input_position or Learned(context)), DisentangledAttention)
    log = mixer.max_distance is not None
    return {
        "architectures": ["DebertaV2ForMaskedLM"], "model_type": "deberta-v2", "num_attention_heads": mixer.heads, "relative_attention": True,
        "position_biased_input": model.input_position is not None, "pos_att_type": ["p2c", "c2p"], "share_att_key": mixer.share_projections,
        "max_relative_positions": mixer.max_distance if log else mixer.buckets, "position_buckets": mixer.buckets if log else -1,
        "norm_rel_ebd": "none" if model.distances is None or model.distances.norm is None else "layer_norm", "legacy": True,
    } | said  # fmt: skip
