"""What a language model learns to do: loss_fn(params, batch, key) -> (loss, metrics)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from effllm import ops
from effllm.shard import RULES, axis_size


@dataclass(frozen=True)
class NextToken:
    """Mean cross-entropy of the next token, in nats, plus z_loss·logsumexp² (Chowdhery et al. 2022, arXiv 2204.02311).

    A batch holds tokens, targets, segment_ids, positions (B, T) int32 and weights (B, T) float32; the mean is over Σ weights. Metrics: "loss"
    without the z-loss, "tokens" = Σ weights, the number that the mean divides by. `chunk` tokens of logits exist at once.
    """

    z_loss: float = 0.0
    chunk: int | None = None

    def __call__(self, model: nn.Module, params: Any, batch: dict[str, jax.Array], key: jax.Array | None):
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
        tokens = jnp.maximum(jnp.sum(batch["weights"]), 1)
        return total / tokens, {"loss": nll / tokens, "tokens": jnp.sum(batch["weights"])}

    def sums(self, x_btd, w_dv, bias_v, targets_bt, weights_bt, soft_cap):
        """(Σ loss, Σ nll) over all tokens. Each device walks over its own rows, and the vocabulary's gradient is reduced once."""
        bias_v = jnp.zeros((w_dv.shape[1],), w_dv.dtype) if bias_v is None else bias_v

        def local(x_btd, w_dv, bias_v, targets_bt, weights_bt):
            return ops.linear_cross_entropy(
                x_btd.reshape(-1, x_btd.shape[-1]), w_dv, targets_bt.reshape(-1), weights_bt.reshape(-1),
                bias_v=bias_v, soft_cap=soft_cap, z_loss=self.z_loss, chunk=self.chunk,
            )  # fmt: skip

        if axis_size("batch") == 1:
            return local(x_btd, w_dv, bias_v, targets_bt, weights_bt)

        axes = RULES["batch"]

        def mapped(x_btd, w_dv, bias_v, targets_bt, weights_bt):
            w_dv, bias_v = jax.lax.pcast((w_dv, bias_v), axes, to="varying")
            return jax.lax.psum(local(x_btd, w_dv, bias_v, targets_bt, weights_bt), axes)

        rows, whole = PartitionSpec(axes), PartitionSpec()
        run = jax.shard_map(mapped, in_specs=(rows, whole, whole, rows, rows), out_specs=(whole, whole), axis_names=set(axes))
        return run(x_btd, w_dv, bias_v, targets_bt, weights_bt)
