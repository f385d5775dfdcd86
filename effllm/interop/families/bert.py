"""bert, and big_bird where its attention is full: post-norm blocks of attention that sees both sides, learned positions and kinds of token."""

from typing import Any

from effllm.interop.families.settings import activation, activation_name, only
from effllm.interop.layout import Tensor, embedding, linear, norm
from effllm.nn import FFN, MLP, Attention, EncoderLM, HeadTransform, LayerNorm, Learned, Mixer, Position, PostNormBlock

TYPES = ("bert", "big_bird")
PREFIX = "bert."


def ignored(prefix: str) -> tuple[str, ...]:
    """Tensors that masked language modelling does not read: the pooler's, the next sentence's, and the tied head stored again."""
    return f"{prefix}pooler.*", f"{prefix}embeddings.*_ids", "cls.seq_relationship.*", "cls.predictions.decoder.*"


def top(prefix: str) -> tuple[Tensor, ...]:
    """The tensors outside the layers, of BERT and of those that took over its embeddings and its head."""
    here = f"{prefix}embeddings"
    return (
        *embedding(f"{here}.word_embeddings"), *embedding(f"{here}.position_embeddings", "embed_position"),
        *embedding(f"{here}.token_type_embeddings", "embed_type"), *norm(f"{here}.LayerNorm", "embed_norm"),
        *linear("cls.predictions.transform.dense", "head_transform.dense"), *norm("cls.predictions.transform.LayerNorm", "head_transform.dense_norm"),
        Tensor("cls.predictions.bias", ("head.bias",)),
    )  # fmt: skip


def ffn_tensors(layer: str) -> tuple[Tensor, ...]:
    """The second half of a layer."""
    return *linear(f"{layer}.intermediate.dense", "ffn.up"), *linear(f"{layer}.output.dense", "ffn.down"), *norm(f"{layer}.output.LayerNorm", "ffn_norm")


def attention_tensors(layer: str) -> tuple[Tensor, ...]:
    """The first half of a layer, where it is some attention."""
    projections = (linear(f"{layer}.attention.self.{theirs}", f"mixer.{ours}") for theirs, ours in (("query", "q"), ("key", "k"), ("value", "v")))
    output = linear(f"{layer}.attention.output.dense", "mixer.output")
    return *sum(projections, ()), *output, *norm(f"{layer}.attention.output.LayerNorm", "mixer_norm")


IGNORED = ignored(PREFIX)
TOP = top(PREFIX)


def block_tensors(block: PostNormBlock) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    layer = "bert.encoder.layer.{}"
    return *attention_tensors(layer), *ffn_tensors(layer)


def model_of(config: dict[str, Any]) -> EncoderLM:
    """The EncoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    only(config, position_embedding_type="absolute")
    if config["model_type"] == "big_bird":
        config = {"attention_type": "block_sparse", "hidden_act": "gelu_new"} | config
        only(config, attention_type="original_full", rescale_embeddings=False, use_bias=True)
    width, heads = config["hidden_size"], config["num_attention_heads"]
    mixer = Attention(heads=heads, kv_heads=heads, head_dim=width // heads, position=Position(), bias=True, output_bias=True, bidirectional=True)
    return of(config, mixer)


def of(config: dict[str, Any], mixer: Mixer, **changes: Any) -> EncoderLM:
    """The encoder of a config.json like BERT's, around another mixer."""
    only(config, is_decoder=False, add_cross_attention=False, tie_word_embeddings=True)
    layer_norm, act = LayerNorm(config.get("layer_norm_eps", 1e-12)), activation(config, "hidden_act", "gelu")
    fields = {
        "vocab_size": config["vocab_size"], "width": config["hidden_size"], "depth": config["num_hidden_layers"],
        "blocks": (PostNormBlock(mixer, MLP(config["intermediate_size"], act, bias=True), layer_norm),), "norm": None, "tied": True, "head_bias": True,
        "input_position": Learned(config["max_position_embeddings"]), "types": config["type_vocab_size"], "embedding_norm": layer_norm,
        "transform": HeadTransform(act, layer_norm),
    }  # fmt: skip
    return EncoderLM(**(fields | changes))


def config_of(model: EncoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model; its context is that of the learned positions. Raises ValueError for blocks unlike this family's."""
    mixer, said = said_of(model, Attention)
    return {"architectures": ["BertForMaskedLM"], "model_type": "bert", "num_attention_heads": mixer.heads, "position_embedding_type": "absolute"} | said


def said_of(model: EncoderLM, mixer: type) -> tuple[Any, dict[str, Any]]:
    """(mixer, what `of` reads of config.json). Raises ValueError for other blocks, positions or heads."""
    if type(model) is not EncoderLM or not isinstance(model.input_position, Learned) or model.transform is None:
        raise ValueError("BERT's kin are encoders with learned positions and a transform before the head")
    first = model.blocks[0]
    if type(first) is not PostNormBlock or type(first.mixer) is not mixer or type(first.ffn) is not MLP or type(first.norm) is not LayerNorm:
        raise ValueError(f"a {type(first).__name__} of {type(first.mixer).__name__} is none of this family's")
    ffn: FFN = first.ffn
    return first.mixer, {
        "hidden_size": model.width, "num_hidden_layers": model.depth, "intermediate_size": ffn.width_for(model.width), "vocab_size": model.vocab_size,
        "hidden_act": activation_name(ffn.activation), "layer_norm_eps": first.norm.eps, "max_position_embeddings": model.input_position.length,
        "type_vocab_size": model.types, "tie_word_embeddings": True, "hidden_dropout_prob": first.dropout,
    }  # fmt: skip
