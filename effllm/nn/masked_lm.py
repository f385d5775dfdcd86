"""Masked language modelling: what an encoder learns."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from effllm.nn.loss import NextToken, Objective


@dataclass(frozen=True)
class MaskedLM(Objective):
    """Mean cross-entropy, in nats, of a random share `rate` of the tokens, from the others (Devlin et al. 2019, arXiv 1810.04805).

    Of the chosen tokens a share `keep` stays as it is, a share `random` becomes a random other token, and the rest becomes the mask token: by default
    the vocabulary's last, one more than the tokenizer has (`mask_token` names another). `span` chooses runs of that mean length, geometrically
    distributed and within one document (after Joshi et al. 2020, arXiv 1907.10529), where the default chooses each token by itself. Padding and
    `special` tokens are never chosen. `chunk` and `implementation` are NextToken's; all tokens pass the head.

    The key decides what is chosen. Without one (evaluation, no dropout) each row is masked by its own content, the same whatever batch it stands in.
    Metrics: "loss", and "tokens", the chosen ones that the mean is over. Raises ValueError for shares outside [0, 1] and for a decoder.
    """

    rate: float = 0.15
    keep: float = 0.1
    random: float = 0.1
    span: float | None = None
    mask_token: int | None = None
    special: tuple[int, ...] = ()
    chunk: int | None = None
    implementation: str | None = None
    likelihood: ClassVar[bool] = False

    def __post_init__(self):
        if not 0 < self.rate < 1:
            raise ValueError(f"MaskedLM: rate={self.rate} must lie between 0 and 1; 0.15 is usual")
        if min(self.keep, self.random) < 0 or self.keep + self.random > 1:
            raise ValueError(f"MaskedLM: keep={self.keep} and random={self.random} must be shares that add up to at most 1")
        if self.span is not None and self.span < 1 / (1 - self.rate):
            raise ValueError(f"MaskedLM: span={self.span} must be at least 1/(1 − rate)={1 / (1 - self.rate):.3g}, the run length of single tokens; None is that")

    @property
    def extra_tokens(self) -> int:
        return 1 if self.mask_token is None else 0

    def mask_of(self, vocab_size: int) -> int:
        """The mask token in a vocabulary of this size."""
        return vocab_size - 1 if self.mask_token is None else self.mask_token

    def validate(self, model):
        if model.decodes:
            raise ValueError(f"objective=MaskedLM: {type(model).__name__} sees only what comes before a mask; use EncoderLM, or objective=NextToken()")
        if not 0 <= self.mask_of(model.vocab_size) < model.vocab_size:
            raise ValueError(f"objective.mask_token={self.mask_token} lies outside the vocabulary of {model.vocab_size}")

    def __call__(self, model, params, batch, key):
        """Loss and metrics of `model` on `batch` (as for NextToken; its targets and weights are not read)."""
        tokens_bt, segments_bt = batch["tokens"], batch["segment_ids"]
        shown_bt, chosen_bt = self.mask(tokens_bt, segments_bt, None if key is None else jax.random.fold_in(key, 0), model.vocab_size)
        x_btd, _ = model.apply(
            {"params": params}, shown_bt, positions=batch["positions"], segment_ids=segments_bt,
            rngs=None if key is None else {"dropout": jax.random.fold_in(key, 1)}, method="features",
        )  # fmt: skip
        weights_bt = chosen_bt.astype(jnp.float32)
        total, nll = NextToken(chunk=self.chunk, implementation=self.implementation).sums(x_btd, *model.head_weights(params), tokens_bt, weights_bt, model.soft_cap)
        tokens = jnp.sum(weights_bt)
        return total / jnp.maximum(tokens, 1), {"loss": nll / jnp.maximum(tokens, 1), "tokens": tokens}

    def mask(self, tokens_bt: jax.Array, segments_bt: jax.Array, key: jax.Array | None, vocab_size: int) -> tuple[jax.Array, jax.Array]:
        """(tokens as the model sees them, which are to be predicted), both (B, T)."""
        if key is None:
            factors_t = 2 * jnp.arange(tokens_bt.shape[1], dtype=jnp.uint32) + 1
            rows_b = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(0), n))(jnp.sum(tokens_bt.astype(jnp.uint32) * factors_t, axis=1))
            draws = jax.vmap(lambda k: tuple(jax.random.uniform(p, tokens_bt.shape[1:]) for p in jax.random.split(k, 3)))(rows_b)
        else:
            draws = tuple(jax.random.uniform(k, tokens_bt.shape) for k in jax.random.split(key, 3))
        choice_bt, how_bt, other_bt = draws
        chosen_bt = self.choose(choice_bt, segments_bt) & (segments_bt > 0)
        for token in self.special:
            chosen_bt &= tokens_bt != token
        mask = self.mask_of(vocab_size)
        # One of the vocab_size − 2 tokens that are neither the mask nor the token itself.
        low, high = (jnp.minimum(tokens_bt, mask), jnp.maximum(tokens_bt, mask))
        other_bt = (other_bt * (vocab_size - 2)).astype(jnp.int32)
        other_bt = other_bt + (other_bt >= low)
        other_bt = other_bt + (other_bt >= high)
        replaced_bt = jnp.where(how_bt < self.keep, tokens_bt, jnp.where(how_bt < self.keep + self.random, other_bt, mask))
        return jnp.where(chosen_bt, replaced_bt, tokens_bt), chosen_bt

    def choose(self, u_bt: jax.Array, segments_bt: jax.Array) -> jax.Array:
        """(B, T) which tokens the uniform numbers u choose, a share `rate` of them."""
        if self.span is None:
            return u_bt < self.rate
        # A chain of two states: a run goes on with probability 1 − 1/span, one begins with `begin`, and a share `rate` of time passes in runs. Either
        # u decides by itself, or it leaves the state as it was; a document begins anew.
        begin, goes_on = self.rate / (self.span * (1 - self.rate)), 1 - 1 / self.span
        first_bt = jnp.diff(segments_bt, axis=1, prepend=0) != 0
        decides_bt = first_bt | (u_bt < begin) | (u_bt >= goes_on)
        last_bt = jax.lax.cummax(jnp.where(decides_bt, jnp.arange(u_bt.shape[1]), 0), axis=1)
        return jnp.take_along_axis(jnp.where(first_bt, u_bt < self.rate, u_bt < begin), last_bt, axis=1)
