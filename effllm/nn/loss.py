"""What a language model learns to do: loss_fn(params, batch, key) -> (loss, metrics)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from effllm import kernels
from effllm.kernels.backends import BACKENDS
from effllm.nn.language_model import LanguageModel
from effllm.shard import RULES, axis_size

Batch = dict[str, jax.Array]


@dataclass(frozen=True)
class Objective:
    """Base of all objectives: objective(model, params, batch, key) -> (loss, metrics), with a mean "loss" and the "tokens" that it is over.

    `extra_tokens` ids beyond the tokenizer's must be in the model's vocabulary. `likelihood` says whether the loss adds up to −log p(text), so that it
    compares with what compressors make of the same text.
    """

    extra_tokens: ClassVar[int] = 0
    likelihood: ClassVar[bool] = True

    def validate(self, model: LanguageModel) -> None:
        """Raise ValueError for a model that this objective cannot teach."""

    def __call__(self, model: nn.Module, params: Any, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, dict[str, jax.Array]]:
        raise TypeError(f"{type(self).__name__} does not say what it minimises: it needs a __call__")


@dataclass(frozen=True)
class NextToken(Objective):
    """Mean cross-entropy of the next token, in nats, plus z_loss·logsumexp² (Chowdhery et al. 2022, arXiv 2204.02311).

    A batch holds tokens, targets, segment_ids, positions (B, T) int32 and weights (B, T) float32; the mean is over Σ weights. Metrics: "loss"
    without the z-loss, "tokens" = Σ weights, the number that the mean divides by; both losses are 0 where it is. `chunk` tokens of logits exist at
    once; `implementation` is one of kernels.linear_cross_entropy's, which names those it has where it does not know one.
    """

    z_loss: float = 0.0
    chunk: int | None = None
    implementation: str | None = None

    def validate(self, model):
        if not model.decodes:
            raise ValueError(f"objective=NextToken: {type(model).__name__} sees the token that it would predict; use objective=MaskedLM() or a DecoderLM")

    def __call__(self, model, params, batch, key):
        """Loss and metrics of `model` on `batch`; dropout acts where `key` is given."""
        x_btd, _ = model.apply(
            {"params": params},
            batch["tokens"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            rngs=None if key is None else {"dropout": key},
            method="features",
        )
        w_dv, bias_v = model.head_weights(params)
        total, nll = self.sums(x_btd, w_dv, bias_v, batch["targets"], batch["weights"], model.soft_cap)
        tokens = jnp.sum(batch["weights"])
        divisor = jnp.where(tokens > 0, tokens, 1)
        return total / divisor, {"loss": nll / divisor, "tokens": tokens}

    def sums(self, x_btd, w_dv, bias_v, targets_bt, weights_bt, soft_cap):
        """(Σ loss, Σ nll) over all tokens. Each device walks over its own rows, and the vocabulary's gradient is reduced once."""
        bias_v = jnp.zeros((w_dv.shape[1],), w_dv.dtype) if bias_v is None else bias_v

        def local(x_btd, w_dv, bias_v, targets_bt, weights_bt):
            return kernels.linear_cross_entropy(
                x_btd.reshape(-1, x_btd.shape[-1]), w_dv, targets_bt.reshape(-1), weights_bt.reshape(-1),
                bias_v=bias_v, soft_cap=soft_cap, z_loss=self.z_loss, chunk=self.chunk, implementation=self.implementation,
            )  # fmt: skip

        if axis_size("batch") == 1:
            return local(x_btd, w_dv, bias_v, targets_bt, weights_bt)

        axes = RULES["batch"]

        def mapped(x_btd, w_dv, bias_v, targets_bt, weights_bt):
            w_dv, bias_v = jax.lax.pcast((w_dv, bias_v), axes, to="varying")
            return jax.lax.psum(local(x_btd, w_dv, bias_v, targets_bt, weights_bt), axes)

        rows, whole = PartitionSpec(axes), PartitionSpec()
        # Kernels do not say over which axes their results vary, so that there is nothing to check them by.
        checked = self.implementation not in BACKENDS
        run = jax.shard_map(mapped, in_specs=(rows, whole, whole, rows, rows), out_specs=(whole, whole), axis_names=set(axes), check_vma=checked)
        return run(x_btd, w_dv, bias_v, targets_bt, weights_bt)
