"""Quality (survey §2): loss, bits per byte, perplexity."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Quality:
    """Held-out figures: mean loss in nats a token over `tokens` tokens that stand for `bytes` bytes of text; None where the loss is no likelihood of it."""

    loss: float
    tokens: int
    bytes: float | None

    @property
    def bits_per_byte(self) -> float | None:
        """loss · tokens / (ln 2 · bytes): comparable between tokenizers."""
        return None if self.bytes is None else self.loss / math.log(2) * self.tokens / self.bytes

    @property
    def perplexity(self) -> float:
        """exp(loss), per token; infinite where it exceeds the largest float."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    def to_json(self) -> dict[str, float | None]:
        return {"loss": self.loss, "bits_per_byte": self.bits_per_byte, "perplexity": self.perplexity, "tokens": self.tokens, "bytes": self.bytes}


def held_out(loss: Callable[[Any, Any], dict[str, jax.Array]], params: Any, batches: Iterable[Any], bytes_per_token: float | None) -> Quality:
    """The quality of `params` over all `batches`; loss(params, batch) gives the mean "loss" and the "tokens" it is over.

    bytes_per_token is the text's bytes over its scored tokens (an end-of-document counts as a token and stands for no byte); None where the
    loss is no likelihood of the text, as with masks.
    """
    total, tokens = 0.0, 0.0
    for batch in batches:
        metrics = jax.device_get(loss(params, batch))
        total += float(metrics["loss"]) * float(metrics["tokens"])
        tokens += float(metrics["tokens"])
    if not tokens:
        raise ValueError("no held-out token to score")
    return Quality(total / tokens, int(tokens), None if bytes_per_token is None else tokens * bytes_per_token)
