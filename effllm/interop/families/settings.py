"""What the config.json files of several families say in the same way."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen

from effllm.nn import DecoderLM, Llama3Scaling, PositionInterpolation, RoPE, RoPEScaling, YaRN, gelu

ACTIVATIONS: dict[str, Callable] = {
    "gelu": gelu, "gelu_new": linen.gelu, "gelu_pytorch_tanh": linen.gelu, "gelu_fast": linen.gelu, "relu": linen.relu, "silu": linen.silu,
    "swish": linen.silu, "tanh": jax.numpy.tanh,
}  # fmt: skip


def only(config: dict[str, Any], **covered: Any) -> None:
    """Raise ValueError for a key that has another value than the one covered; a key that is absent has that value."""
    for key, value in covered.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key}={config[key]!r}: the {config['model_type']} family is covered with {value!r}")


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


def parts(model: DecoderLM, block: type, mixer: type, ffn: type, norm: type, position: type) -> tuple[Any, Any]:
    """(mixer, ffn) of the first block. Raises ValueError where a type is not exactly the one given."""
    first = model.blocks[0]
    found = (first, first.mixer, first.ffn, first.norm, model.norm, getattr(first.mixer, "position", None))
    for value, wanted in zip(found, (block, mixer, ffn, norm, norm, position), strict=True):
        if type(value) is not wanted:
            raise ValueError(f"a block has a {type(value).__name__} for a {wanted.__name__}")
    return first.mixer, first.ffn


def rope(config: dict[str, Any], said: dict[str, Any] | None = None) -> RoPE:
    """RoPE of a config.json, which says it in rope_parameters, or in rope_theta and rope_scaling before transformers 5."""
    scaling = config.get("rope_scaling") or {}
    before = {"rope_theta": config.get("rope_theta", 10000.0), "partial_rotary_factor": config.get("partial_rotary_factor", 1.0)}
    said = said or config.get("rope_parameters") or before | scaling
    return RoPE(float(said["rope_theta"]), float(said.get("partial_rotary_factor", 1.0)), False, _scaling(config, said))


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
    raise ValueError(f"rope_type={kind!r} is not covered; default, linear, yarn and llama3 are")


def rope_parameters(position: RoPE) -> dict[str, Any]:
    """What config.json says of a RoPE."""
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
