"""longformer: BERT's arrangement with windowed attention and global tokens, and RoBERTa's positions and head.

transformers is told at each call which tokens are global (global_attention_mask), and by default none is. Here the model says it: config.json may list
positions as `global_positions`, which transformers leaves alone; a model loaded without them has none.
"""

from typing import Any

from effllm.interop.families import bert
from effllm.interop.families.settings import only
from effllm.interop.layout import Tensor, embedding, linear, norm
from effllm.interop.normal import shortest
from effllm.nn import EncoderLM, HeadTransform, LayerNorm, Learned, LongformerAttention, PostNormBlock

TYPES = ("longformer",)
PREFIX = "longformer."
IGNORED = ("longformer.pooler.*", "longformer.embeddings.*_ids", "lm_head.decoder.*")
TOP = (
    *embedding("longformer.embeddings.word_embeddings"), *embedding("longformer.embeddings.position_embeddings", "embed_position"),
    *embedding("longformer.embeddings.token_type_embeddings", "embed_type"), *norm("longformer.embeddings.LayerNorm", "embed_norm"),
    *linear("lm_head.dense", "head_transform.dense"), *norm("lm_head.layer_norm", "head_transform.dense_norm"), Tensor("lm_head.bias", ("head.bias",)),
)  # fmt: skip


def block_tensors(block: PostNormBlock) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    layer = "longformer.encoder.layer.{}"
    pairs = ("query", "q"), ("key", "k"), ("value", "v")
    far = (linear(f"{layer}.attention.self.{theirs}_global", f"mixer.global_{ours}") for theirs, ours in pairs)
    return *bert.attention_tensors(layer), *sum(far, ()), *bert.ffn_tensors(layer)


def model_of(config: dict[str, Any]) -> EncoderLM:
    """The EncoderLM of a config.json. Raises ValueError naming the key that this family does not cover.

    Its positions are counted from pad_token_id + 1, as the table's rows. transformers counts a token of that id within a text as no token; ours does.
    """
    only(config, position_embedding_type="absolute")
    depth, windows, offset = config["num_hidden_layers"], config.get("attention_window", 512), config.get("pad_token_id", 1) + 1
    windows = [windows] * depth if isinstance(windows, int) else windows
    if len(windows) != depth or any(w < 2 or w % 2 for w in windows):
        raise ValueError(f"attention_window={windows}: give an even number of at least 2, or one for each of the {depth} layers")
    marked = tuple(config.get("global_positions", ()))
    mixers = [LongformerAttention(config["num_attention_heads"], window // 2 + 1, marked, bias=True) for window in windows]
    layer_norm = LayerNorm(config.get("layer_norm_eps", 1e-12))
    model = bert.of(
        {"type_vocab_size": 2} | config, mixers[0], input_position=Learned(config["max_position_embeddings"] - offset, offset),
        transform=HeadTransform(norm=layer_norm),
    )  # fmt: skip
    return model.clone(blocks=shortest(tuple(model.blocks[0].clone(mixer=mixer) for mixer in mixers)))


def config_of(model: EncoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model; its context is that of the learned positions. Raises ValueError for blocks unlike this family's."""
    mixers = [bert.said_of(model.clone(blocks=(block,)), LongformerAttention)[0] for block in model.blocks * model.periods]
    mixer, said = bert.said_of(model, LongformerAttention)
    offset = model.input_position.offset
    return {
        "architectures": ["LongformerForMaskedLM"], "model_type": "longformer", "num_attention_heads": mixer.heads,
        "attention_window": [2 * (each.window - 1) for each in mixers], "pad_token_id": offset - 1,
    } | said | {"max_position_embeddings": model.input_position.length + offset} | (
        {"global_positions": list(mixer.global_positions)} if mixer.global_positions else {}
    )  # fmt: skip
