"""Fourier mixing against the plain FFT of each document."""

import jax.numpy as jnp
import numpy as np
import pytest

from effllm import ops
from tests.tiny import random


def test_each_document_is_transformed_at_its_own_length():
    x = random((2, 40, 6), jnp.float32, 0)
    segments = np.array([[0] * 2 + [3] * 7 + [0] + [3] * 4 + [5] * 1 + [4] * 20 + [0] * 5, [1] * 40], np.int32)
    y = ops.fourier(x, jnp.asarray(segments))
    for row, segment in ((0, 3), (0, 5), (0, 4), (1, 1)):
        tokens = np.flatnonzero(segments[row] == segment)
        np.testing.assert_allclose(y[row, tokens], np.fft.fft2(np.asarray(x)[row, tokens]).real, atol=1e-4)
    assert not np.asarray(y)[segments == 0].any()


def test_more_documents_than_promised_are_not_silent():
    segments = jnp.array([[1, 2, 2, 3, 3, 0]])
    y = ops.fourier(random((1, 6, 4), jnp.float32, 0), segments, count=2)
    assert np.isfinite(y[0, [0, 1, 2, 5]]).all() and np.isnan(y[0, 3:5]).all()


def test_a_row_too_long_for_exact_phases_is_refused():
    with pytest.raises(ValueError, match="65535 tokens, not 65536"):
        ops.fourier(jnp.zeros((1, 65536, 1)), jnp.ones((1, 65536), jnp.int32))
