"""What attention keeps while decoding: pages through a table, a latent, first tokens; and feed-forward layers by blocks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn
from tests.tiny import WIDTH, close, init, inputs

MLA = Path(__file__).parents[1] / "golden" / "layers" / "mla.npz"


def test_pages_are_taken_as_texts_grow_and_read_through_the_table():
    paged, dense = nn.Attention(heads=4, kv_heads=2, pages=6), nn.Attention(heads=4, kv_heads=2)
    x_btd, positions = inputs(3, 40)
    params = init(dense, x_btd, positions=positions, segment_ids=None)
    lengths = np.array([40, 3, 17])
    segments = (np.arange(40) < lengths[:, None]).astype(np.int32)
    apply = jax.jit(lambda m, x, p, s, state: m.apply({"params": params}, x, positions=p, segment_ids=s, state=state), static_argnums=0)

    def run(mixer, start, stop, state):
        return apply(mixer, x_btd[:, start:stop], positions[:, start:stop], segments[:, start:stop], state)

    states = [m.init_state(3, 40, WIDTH, jnp.float32) for m in (paged, dense)]
    for start, stop in ((0, 10), (10, 40)):
        (y, states[0]), (expected, states[1]) = (run(m, start, stop, s) for m, s in zip((paged, dense), states))
        real = segments[:, start:stop, None] > 0
        np.testing.assert_allclose(y * real, expected * real, atol=1e-6)
    assert states[0].taken == 3 + 1 + 2  # fewer than three times the longest
    assert len(set(np.asarray(states[0].table_bm)[np.asarray(states[0].table_bm) < 6].tolist())) == 6
    short = paged.clone(pages=3)
    y, _ = run(short, 0, 40, short.init_state(3, 40, WIDTH, jnp.float32))
    assert jnp.isfinite(y[0]).all() and jnp.isnan(y[1, :3]).all() and jnp.isnan(y[2, :17]).all()


def test_a_row_beyond_its_table_takes_no_page_from_others():
    mixer = nn.Attention(heads=2, pages=3)
    x_btd, positions = inputs(2, 40)
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    apply = jax.jit(lambda segments, state: mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=segments, state=state))
    segments = (np.arange(40) < np.array([[40], [0]])).astype(np.int32)
    y, state = apply(segments, mixer.init_state(2, 16, WIDTH, jnp.float32))  # a table of one page a row
    assert state.taken == 1 and jnp.isfinite(y[0, :16]).all() and jnp.isnan(y[0, 16:]).all()
    y, state = apply(np.roll(segments, 1, axis=0), state)
    assert state.taken == 2 and jnp.isfinite(y[1, :16]).all() and jnp.isnan(y[1, 16:]).all()


def test_what_attention_cannot_be_is_named():
    for mixer, words in ((nn.Attention(soft_cap=0.0), "soft_cap=0.0 must be positive"), (nn.Attention(head_dim=0), "head_dim=0 must be at least 1")):
        with pytest.raises(ValueError, match=f"Attention: {words}"):
            mixer.dims(WIDTH)


def test_a_state_of_another_batch_size_is_refused():
    for mixer in (nn.Attention(), nn.Attention(window=4), nn.Attention(pages=2), nn.LatentAttention()):
        x_btd, positions = inputs(2, 4)
        params = init(mixer, x_btd, positions=positions, segment_ids=None)
        with pytest.raises(ValueError, match="the state holds 3 rows, the input has 2"):
            mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=None, state=mixer.init_state(3, 4, WIDTH, jnp.float32))


def test_latent_attention_is_deepseeks():
    golden = dict(np.load(MLA))
    block = nn.Block(nn.LatentAttention(heads=4, head_dim=16, rope_dim=8, latent=24, query_latent=32), nn.SwiGLU(112))
    w = {k.removeprefix("weight/"): jnp.asarray(v) for k, v in golden.items() if k.startswith("weight/")}
    named = {"q_down": "q_a_proj", "q": "q_b_proj", "kv_down": "kv_a_proj_with_mqa", "kv_up": "kv_b_proj", "output": "o_proj"}
    mixer = {ours: {"kernel": w[f"self_attn.{theirs}.weight"].T} for ours, theirs in named.items()}
    mixer |= {"q_norm": {"scale": w["self_attn.q_a_layernorm.weight"]}, "kv_norm": {"scale": w["self_attn.kv_a_layernorm.weight"]}}
    # Theirs holds each head's key rows, then its value rows, as ours does.
    params = {
        "mixer": mixer, "ffn": {n: {"kernel": w[f"mlp.{n}_proj.weight"].T} for n in ("gate", "up", "down")},
        "mixer_norm": {"scale": w["input_layernorm.weight"]}, "ffn_norm": {"scale": w["post_attention_layernorm.weight"]},
    }  # fmt: skip
    x_btd = w["embed"][golden["input_ids"]]
    positions = jnp.broadcast_to(jnp.arange(x_btd.shape[1]), x_btd.shape[:2])
    run = jax.jit(lambda state: block.apply({"params": params}, x_btd, positions=positions, segment_ids=None, state=state)[0])
    whole = run(None)
    np.testing.assert_allclose(whole, golden["hidden_1"], atol=1e-5)
    compressed = block.mixer.init_state(2, 32, 64, jnp.float32)
    assert sum(a.size for a in (compressed.k_bsgk, compressed.v_bsgk)) == 2 * 32 * (24 + 8)
    np.testing.assert_allclose(run(compressed), golden["hidden_1"], atol=1e-5)


def test_first_tokens_of_the_last_document_are_kept():
    mixer = nn.Attention(heads=2, pattern=nn.StreamingLLM(window=3, first=2))
    state = mixer.init_state(1, 100, WIDTH, jnp.float32)
    assert state.slots == 5
    x_btd, positions = inputs(1, 9)
    params = init(mixer, x_btd, positions=positions, segment_ids=None)
    segments, positions = jnp.array([[1] * 3 + [2] * 6]), jnp.array([[*range(3), *range(6)]])
    _, state = mixer.apply({"params": params}, x_btd, positions=positions, segment_ids=segments, state=state)
    assert state.order_bs[0].tolist() == [3, 4, 6, 7, 8] and set(state.segments_bs[0].tolist()) == {2}


def test_learned_sinks_take_attention_from_the_keys():
    mixer = nn.Attention(heads=1, kv_heads=1, sinks=True, implementation="reference")
    x_btd, positions = inputs(1, 5)
    params = init(mixer, x_btd, positions=positions, segment_ids=None)

    def out(sink):
        return mixer.apply({"params": params | {"sink": jnp.array([sink])}}, x_btd, positions=positions, segment_ids=None)[0]

    close(out(-1e9), nn.Attention(heads=1).apply({"params": params}, x_btd, positions=positions, segment_ids=None)[0], 1e-6)
    assert jnp.abs(out(1e3)).max() == 0 and 0 < jnp.abs(out(0.0)).max() < jnp.abs(out(-1e9)).max()


@pytest.mark.parametrize("block", [1, 5, 7, 100])
def test_a_feed_forward_layer_by_blocks_is_the_layer(block):
    inner = nn.SwiGLU(hidden=24)
    x_btd, _ = inputs(2, 14)
    params = init(inner, x_btd)

    def loss(module, params):
        return jax.value_and_grad(lambda p, x: jnp.sum(jnp.sin(module.apply({"params": p}, x))), argnums=(0, 1))(params, x_btd)

    value, (grads, dx) = loss(nn.BlockwiseFFN(inner, block), {"ffn": params})
    expected, (expected_grads, expected_dx) = loss(inner, params)
    close((value, grads["ffn"], dx), (expected, expected_grads, expected_dx), 1e-5)


def test_hidden_activations_never_exist_whole():
    def temporary(ffn):
        x_btd = jnp.zeros((1, 4096, WIDTH))
        params = init(ffn, x_btd[:, :8])
        step = jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.sin(ffn.apply({"params": p}, x)))))
        return step.lower(params, x_btd).compile().memory_analysis().temp_size_in_bytes

    assert temporary(nn.BlockwiseFFN(nn.MLP(hidden=1024), 128)) < temporary(nn.MLP(hidden=1024)) / 8


@pytest.mark.parametrize(
    "build,words",
    [
        (lambda: nn.Attention(window=3, pattern=nn.BlockLocal(4)).dims(32), "window=3 and pattern=BlockLocal.*both given"),
        (lambda: nn.StreamingLLM(window=0), "StreamingLLM: window=0 must be at least 1"),
        (lambda: nn.Longformer(8, (-1,)), r"Longformer: global_positions=\(-1,\).*outside the text"),
        (lambda: nn.Attention(pattern=nn.Longformer(8, (99,))).flops(64, 32), "Longformer: global_positions.*outside a text of 64"),
        (lambda: nn.Fixed(4, 5), "Fixed: summary=5 exceeds its block of size=4"),
        (lambda: nn.Attention(window=4, pages=2).dims(32), "pages=2 must be at least 1, and goes with attention that keeps the whole text"),
        (lambda: nn.BlockwiseFFN(block=0).init(jax.random.key(0), jnp.zeros((1, 2, 8))), "BlockwiseFFN: block=0"),
    ],
)
def test_states_and_patterns_that_cannot_be(build, words):
    with pytest.raises(ValueError, match=words):
        build()
