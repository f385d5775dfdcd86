"""Arrangements of a block's norms and branches, and what stands before the blocks, each against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn
from effllm.infer import Sampler, generate
from tests.tiny import WIDTH, close, init, inputs, model

PARTS = {"mixer": nn.Attention(heads=2), "ffn": nn.MLP(hidden=48), "norm": nn.LayerNorm()}
FORMULAS = {
    "ParallelBlock": (nn.ParallelBlock(**PARTS), lambda x, mixer, ffn, norm: x + mixer(norm("mixer_norm", x)) + ffn(norm("mixer_norm", x))),
    "two norms": (nn.ParallelBlock(**PARTS, shared_norm=False), lambda x, mixer, ffn, norm: x + mixer(norm("mixer_norm", x)) + ffn(norm("ffn_norm", x))),
    "PostNormBlock": (nn.PostNormBlock(**PARTS), lambda x, mixer, ffn, norm: norm("ffn_norm", (y := norm("mixer_norm", x + mixer(x))) + ffn(y))),
    "BranchNormBlock": (nn.BranchNormBlock(**PARTS), lambda x, mixer, ffn, norm: (y := x + norm("mixer_norm", mixer(x))) + norm("ffn_norm", ffn(y))),
    "SandwichBlock": (
        nn.SandwichBlock(**PARTS),
        lambda x, mixer, ffn, norm: (y := x + norm("mixer_post_norm", mixer(norm("mixer_norm", x)))) + norm("ffn_post_norm", ffn(norm("ffn_norm", y))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_a_block_is_its_formula(name):
    block, formula = FORMULAS[name]
    x_btd, positions = inputs(2, 5)
    params = init(block, x_btd, positions=positions, segment_ids=None)
    y_btd, _ = block.apply({"params": params}, x_btd, positions=positions, segment_ids=None)

    def part(module, name):
        return lambda x: module.apply({"params": params[name]}, x)

    def mixer(x):
        return block.mixer.apply({"params": params["mixer"]}, x, positions=positions, segment_ids=None)[0]

    close(y_btd, formula(x_btd, mixer, part(block.ffn, "ffn"), lambda name, x: part(block.norm, name)(x)), 1e-6)
    assert len({"mixer_norm", "ffn_norm", "mixer_post_norm", "ffn_post_norm"} & set(params)) == {"ParallelBlock": 1, "SandwichBlock": 4}.get(name, 2)


def test_learned_positions_are_added_and_those_beyond_the_table_show():
    position = nn.Learned(length=6, offset=2)
    x_btd, positions = inputs(1, 7)
    params = init(position, x_btd, tokens_bt=None, positions_bt=positions, segment_ids=None)
    y_btd = position.apply({"params": params}, x_btd, tokens_bt=None, positions_bt=positions, segment_ids=None)
    close(y_btd[:, :6], x_btd[:, :6] + params["embedding"][2:], 1e-7)
    assert np.isnan(y_btd[:, 6]).all()


def test_sinusoidal_positions_are_the_papers():
    x_btd, positions = inputs(1, 40)
    y_btd = nn.Sinusoidal().apply({}, jnp.zeros_like(x_btd), tokens_bt=None, positions_bt=positions, segment_ids=None)
    for t, d in ((0, 1), (3, 4), (39, 31)):
        angle = t / 10000 ** (2 * (d // 2) / WIDTH)
        np.testing.assert_allclose(y_btd[0, t, d], np.sin(angle) if d % 2 == 0 else np.cos(angle), atol=1e-5)


INPUTS = [nn.Learned(length=24), nn.Sinusoidal(), nn.CAPE(), nn.FLOATER(length=24, hidden=8), nn.ComplexEmbedding()]


@pytest.mark.parametrize("position", INPUTS, ids=lambda p: type(p).__name__)
def test_a_decoder_with_input_positions_generates_what_its_forward_says(position):
    changes = {"input_position": position, "embedding_norm": nn.LayerNorm(), "embedding_scale": WIDTH**0.5}
    decoder = model(**changes, depth=2, blocks=(nn.Block(nn.Attention(position=nn.Position())),))
    tokens, lengths = jnp.array([[5, 9, 3], [7, 0, 0]]), jnp.array([3, 1])
    params = init(decoder, tokens)
    new, _ = generate(decoder, params, tokens, lengths, jax.random.key(0), tokens=5, sampler=Sampler(temperature=0.0))
    forward = jax.jit(lambda t: decoder.apply({"params": params}, t)[0])
    for prompt, row in zip(([5, 9, 3], [7]), np.asarray(new)):
        whole = jnp.array([[*prompt, *row]])
        np.testing.assert_array_equal(jnp.argmax(forward(whole)[0], -1)[len(prompt) - 1 : -1], row)


def test_padding_before_and_among_the_tokens_of_a_prompt_takes_no_position():
    decoder = model(depth=2, input_position=nn.Learned(length=8), blocks=(nn.Block(nn.Attention(position=nn.Position())),))
    prompt, more = [5, 9, 3], [8, 2, 7, 1]
    params = init(decoder, jnp.array([prompt]))
    apply = jax.jit(lambda tokens, segments, state: decoder.apply({"params": params}, tokens, segment_ids=segments, state=state))

    def run(rows, segments):
        whole, state = apply(jnp.array(rows), jnp.array(segments), decoder.init_state(len(rows), 8))
        return whole, apply(jnp.array([more] * len(rows)), None, state)[0]

    prefill, decoded = run([[0, 0, *prompt], [5, 0, 9, 0, 3]], [[0, 0, 1, 1, 1], [1, 0, 1, 0, 1]])
    wanted = run([prompt], [[1, 1, 1]])
    for row, slots in enumerate(([2, 3, 4], [0, 2, 4])):
        np.testing.assert_allclose(prefill[row, jnp.array(slots)], wanted[0][0], atol=1e-5)
        np.testing.assert_allclose(decoded[row], wanted[1][0], atol=1e-5)


def test_a_text_or_state_beyond_the_learned_positions_is_refused():
    decoder = model(input_position=nn.Learned(length=8))
    params = init(decoder, jnp.zeros((1, 4), jnp.int32))
    with pytest.raises(ValueError, match="9 tokens are more than the 8 positions of input_position=Learned"):
        decoder.apply({"params": params}, jnp.zeros((1, 9), jnp.int32))
    with pytest.raises(ValueError, match="9 tokens are more than the 8 positions"):
        decoder.init_state(1, 9)


def test_a_text_or_state_beyond_the_trained_length_is_refused():
    decoder = model(trained_length=8)
    params = init(decoder, jnp.zeros((1, 8), jnp.int32))
    decoder.init_state(1, 8)
    with pytest.raises(ValueError, match=r"DecoderLM: 16 tokens are more than trained_length=8; .* RoPE\(scaling=YaRN\(2, 8\)\)"):
        decoder.apply({"params": params}, jnp.zeros((1, 16), jnp.int32))
    with pytest.raises(ValueError, match="16 tokens are more than trained_length=8"):
        decoder.init_state(1, 16)
    packed = {"positions": jnp.arange(16)[None] % 8, "segment_ids": jnp.arange(16)[None] // 8 + 1}
    assert decoder.apply({"params": params}, jnp.zeros((1, 16), jnp.int32), **packed)[0].shape == (1, 16, decoder.vocab_size)
    encoder = nn.EncoderLM(width=32, depth=1, trained_length=8)
    with pytest.raises(ValueError, match="EncoderLM: 9 tokens are more than trained_length=8"):
        encoder.init(jax.random.key(0), jnp.zeros((1, 9), jnp.int32))
    with pytest.raises(ValueError, match="trained_length=0 must be at least 1"):
        model(trained_length=0).validate()


def test_rms_norms():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
    rms = jnp.sqrt(jnp.mean(x**2, axis=(-2, -1), keepdims=True) + 1e-6)
    params = init(nn.HeadsRMSNorm(), x)
    assert params["scale"].shape == (32,)
    close(nn.HeadsRMSNorm().apply({"params": params}, x), x / rms * params["scale"].reshape(4, 8), 1e-6)
    scale = jnp.linspace(-0.5, 0.5, 8)
    close(nn.RMSNorm(offset=1.0).apply({"params": {"scale": scale}}, x), nn.RMSNorm().apply({"params": {"scale": 1 + scale}}, x), 1e-7)
    assert (nn.RMSNorm(offset=1.0).init(jax.random.key(0), x)["params"]["scale"].value == 0).all()
