"""A loss of its own for something deep in a model."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def with_loss(x: jax.Array, loss: jax.Array) -> jax.Array:
    """x itself; the backward pass gives `loss` (a number) the derivative 1, as if it had been added to whatever is minimised.

    It needs no channel from the module to the objective, and acts once wherever x has a gradient, whatever that gradient is.
    """
    return x


def _forward(x, loss):
    return x, jnp.zeros((0,), loss.dtype)  # a dtype travels as an empty array: residuals hold arrays only


def _backward(like, d_x):
    return d_x, jnp.ones((), like.dtype)


with_loss.defvjp(_forward, _backward)
