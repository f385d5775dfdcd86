"""What the config.json files of several families say in the same way."""

import math
from collections.abc import Callable
from typing import Any

import jax
from flax import linen

from effllm.nn import DecoderLM, DynamicNTK, Llama3Scaling, PositionInterpolation, RoPE, RoPEScaling, YaRN, gelu

ACTIVATIONS: dict[str, Callable] = {
    "gelu": gelu, "gelu_new": linen.gelu, "gelu_pytorch_tanh": linen.gelu, "gelu_fast": linen.gelu, "relu": linen.relu, "silu": linen.silu,
    "swish": linen.silu, "tanh": jax.numpy.tanh,
}  # fmt: skip

GPT_NAMES = {"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer", "max_position_embeddings": "n_positions"}


def only(config: dict[str, Any], **covered: Any) -> None:
    """Raise ValueError for a key that has another value than the one covered; a key that is absent has that value."""
    for key, value in covered.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key}={config[key]!r}: the {config['model_type']} family is covered with {value!r}")


def renamed(config: dict[str, Any], **names: str) -> dict[str, Any]:
    """A config.json with the keys that a family names otherwise (common name = its name) under its names; transformers reads either."""
    return config | {its: config[common] for common, its in names.items() if common in config}


def activation(config: dict[str, Any], key: str, default: str) -> Callable:
    """The function that a key names."""
    name = config.get(key, default)
    if name not in ACTIVATIONS:
        raise ValueError(f"{key}={name!r} is not covered; {', '.join(ACTIVATIONS)} are")
    return ACTIVATIONS[name]


def activation_name(function: Callable, *preferred: str) -> str:
    """The name of a function, one of the preferred where several mean it. Raises ValueError where it has none."""
    for name in (*preferred, *ACTIVATIONS):
        if ACTIVATIONS[name] is function:
            return name
    raise ValueError(f"transformers has no name for the activation {getattr(function, '__name__', function)}")


def parts(model: DecoderLM, block: type, mixer: type, ffn: type, norm: type, *positions: type) -> tuple[Any, Any]:
    """(mixer, ffn) of the first block. Raises ValueError where a type, in any block, is not exactly the one given."""
    for each in model.blocks:
        found = (each, each.mixer, each.ffn, each.norm)
        if tuple(map(type, found)) != (block, mixer, ffn, norm) or type(each.mixer.position) not in positions:
            raise ValueError(f"a {type(each).__name__} of {type(each.mixer).__name__} is none of this family's")
    if type(model.norm) not in (norm, type(None)):
        raise ValueError(f"the last norm is a {type(model.norm).__name__}")
    return model.blocks[0].mixer, model.blocks[0].ffn


def rope(config: dict[str, Any], said: dict[str, Any] | None = None) -> RoPE | DynamicNTK:
    """RoPE of a config.json, which says it in rope_parameters, or in rope_theta and rope_scaling before transformers 5.

    A dynamic one becomes DynamicNTK, which is transformers' up to the trained length; beyond, transformers takes the length of each call, and
    so gives a text decoded with a cache other logits than the same text at once. To have those of one call of n tokens, give the model
    RoPE(base, scaling=dynamic_ntk(factor, trained_length, n)).
    """
    scaling = config.get("rope_scaling") or {}
    before = {"rope_theta": config.get("rope_theta", 10000.0), "partial_rotary_factor": config.get("partial_rotary_factor", 1.0)}
    said = before | {key: value for key, value in (said or config.get("rope_parameters") or scaling).items() if value is not None}
    if said.get("rope_type", said.get("type")) == "dynamic":
        only(said | {"model_type": config["model_type"]}, partial_rotary_factor=1.0)
        return DynamicNTK(float(said["rope_theta"]), float(said["factor"]), config["max_position_embeddings"], _stages(float(said["factor"])))
    return RoPE(float(said["rope_theta"]), float(said["partial_rotary_factor"]), False, _scaling(config, said))


def _stages(factor: float) -> int:
    """Doublings of the trained length until factor times it is covered."""
    return max(1, math.ceil(math.log2(factor)))


def _scaling(config: dict[str, Any], said: dict[str, Any]) -> RoPEScaling:
    kind = said.get("rope_type", said.get("type", "default"))
    trained = said.get("original_max_position_embeddings", config["max_position_embeddings"])
    if kind == "default":
        return RoPEScaling()
    if kind == "linear":
        return PositionInterpolation(float(said["factor"]))
    if kind == "yarn":
        known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}
        if set(said) - known:
            raise ValueError(f"rope_parameters: yarn with {', '.join(sorted(set(said) - known))} is not covered")
        return YaRN(float(said["factor"]), trained, float(said.get("beta_fast", 32)), float(said.get("beta_slow", 1)))
    if kind == "llama3":
        return Llama3Scaling(float(said["factor"]), trained, float(said["low_freq_factor"]), float(said["high_freq_factor"]))
    raise ValueError(f"rope_type={kind!r} is not covered; default, linear, dynamic, yarn and llama3 are")


def rope_parameters(position: RoPE | DynamicNTK) -> dict[str, Any]:
    """What config.json says of a RoPE."""
    if isinstance(position, DynamicNTK):
        return {"rope_type": "dynamic", "rope_theta": position.base, "factor": position.factor}  # of max_position_embeddings
    said: dict[str, Any] = {"rope_type": "default", "rope_theta": position.base}
    if position.fraction != 1.0:
        said["partial_rotary_factor"] = position.fraction
    match position.scaling:
        case PositionInterpolation(factor):
            said |= {"rope_type": "linear", "factor": factor}
        case YaRN(factor, trained, fast, slow):
            said |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained, "beta_fast": fast, "beta_slow": slow}
        case Llama3Scaling(factor, trained, low, high):
            said |= {"rope_type": "llama3", "factor": factor, "original_max_position_embeddings": trained, "low_freq_factor": low, "high_freq_factor": high}
    return said
