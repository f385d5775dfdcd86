"""rwkv: RWKV-4, whose layers are two blocks here, a time mix and a channel mix."""

from typing import Any

from effllm.interop.layout import Broadcast, Tensor, embedding, linear, norm
from effllm.nn import Block, DecoderLM, LayerNorm, RWKV4ChannelMix, RWKV4TimeMix

TYPES = ("rwkv",)
PREFIX = "rwkv."
IGNORED = ()
TOP = (*embedding("rwkv.embeddings"), *norm("rwkv.blocks.0.pre_ln", "embed_norm"), *norm("rwkv.ln_out", "final_norm"), *linear("head", "head"))


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer's half."""
    time = isinstance(block.mixer, RWKV4TimeMix)
    here = "rwkv.blocks.{half}"
    inside = f"{here}.{'attention' if time else 'feed_forward'}"
    mixes = tuple(Tensor(f"{inside}.time_mix_{n}", (f"mixer.mix_{n}",), Broadcast()) for n in ("key", "value", "receptance"))
    linears = sum((linear(f"{inside}.{n}", f"mixer.{n}") for n in ("key", "value", "receptance", "output")), ())
    own = (Tensor(f"{inside}.time_decay", ("mixer.decay",)), Tensor(f"{inside}.time_first", ("mixer.bonus",)))
    return *norm(f"{here}.ln{1 if time else 2}", "mixer_norm"), *mixes, *linears, *own


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json."""
    width, norm_of_all = config["hidden_size"], LayerNorm(config["layer_norm_epsilon"])
    mixers = RWKV4TimeMix(config.get("attention_hidden_size") or width), RWKV4ChannelMix(config.get("intermediate_size") or 4 * width)
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=2 * config["num_hidden_layers"],
        blocks=tuple(Block(mixer, None, norm_of_all) for mixer in mixers),
        norm=norm_of_all,
        tied=config.get("tie_word_embeddings", False),
        embedding_norm=norm_of_all,
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    if [type(block.mixer) for block in model.blocks] != [RWKV4TimeMix, RWKV4ChannelMix]:
        raise ValueError("the blocks are not a time mix and a channel mix of RWKV-4 in turn")
    time, channel = (block.mixer for block in model.blocks)
    return {
        "architectures": ["RwkvForCausalLM"], "model_type": "rwkv", "hidden_size": model.width, "attention_hidden_size": time.width_for(model.width),
        "intermediate_size": channel.width_for(model.width), "num_hidden_layers": model.depth // 2, "vocab_size": model.vocab_size,
        "layer_norm_epsilon": model.norm.eps, "tie_word_embeddings": model.tied, "context_length": context,
        "rescale_every": 0,  # halving layers in float16 inference; float32 and bfloat16 do not need it
    }  # fmt: skip
