"""What recurrent mixers and their ops refuse: sizes, states, arrays and texts that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from effllm import nn, ops
from effllm.ops.long_conv import Past
from tests.nn.test_recurrences import run
from tests.tiny import WIDTH, init, inputs


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: nn.RGLRU(decay=(0.9, 1.0)).width_for(WIDTH), r"RGLRU: decay=\(0.9, 1.0\).*most < 1"),
        (lambda: nn.RGLRU(heads=5).width_for(WIDTH), "RGLRU: hidden=32 is not a multiple of heads=5"),
        (lambda: nn.LRU(decay=(0.9, 1.1)).states_for(WIDTH), r"LRU: decay=\(0.9, 1.1\)"),
        (lambda: nn.LRU(phase=7.0).states_for(WIDTH), "LRU: phase=7.0"),
        (lambda: nn.S4D(step=(0.0, 0.1)).init_state(1, 4, WIDTH, jnp.float32), r"S4D: step=\(0.0, 0.1\).*0 < least"),
        (lambda: nn.Mamba(step=(0.1, 0.01)).init_state(1, 4, WIDTH, jnp.float32), r"Mamba: step=\(0.1, 0.01\)"),
        (lambda: nn.DSS(normal_length=0).ssm(), "DSS: normal_length=0"),
        (lambda: nn.Hyena(order=1).conv(), "Hyena: order=1"),
        (lambda: run(nn.AFTFull(length=8)), "AFTFull: a document of 21 tokens is longer than length=8; raise length"),
        (lambda: run(nn.AFTConv(heads=5)), "AFTConv: .*heads=5"),
        (lambda: nn.Mega(chunk=0).width_for(WIDTH), "Mega: chunk=0"),
        (lambda: nn.BlockState(heads=5).head_dim(WIDTH), "BlockState: width=32 is not a multiple of heads=5"),
        (lambda: nn.BlockRecurrent(states=0).head_dim(WIDTH), "BlockRecurrent: states=0 must be at least 1"),
        (lambda: nn.MLSTM(gate_cap=0.0).dims(WIDTH), "MLSTM: gate_cap=0.0 must be above 0"),
        (lambda: nn.Bidirectional(nn.BiGS()).validate(), "Bidirectional: mixer=BiGS sees both sides already"),
        (lambda: run(nn.Bidirectional(), state=1), "Bidirectional sees both sides and keeps no state"),
        (lambda: run(nn.BiGS(), state=1), "BiGS sees both sides and keeps no state"),
        (lambda: run(nn.S4D(method="euler")), "S4D: method='euler' must be 'zoh' or 'bilinear'"),
        (lambda: run(nn.DSS(method="bilinear", normal_length=8)), "DSS: method='bilinear' .*normal_length=8.*take 'zoh'"),
        (lambda: run(nn.RandomFeatureAttention(floor=0.0)), "RandomFeatureAttention: floor=0.0 must be above 0"),
        (lambda: run(nn.H3(taps=1)), "ShortConv: taps=1 must be at least 2"),
        (lambda: nn.Bidirectional().init_state(1, 4, WIDTH, jnp.float32), "Bidirectional keeps no state: it cannot decode"),
    ],
)
def test_what_a_mixer_cannot_be_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


SIZES = {
    nn.LinearAttention: ["head_dim"], nn.Performer: ["features"], nn.RandomFeatureAttention: ["features"], nn.GatedLinearAttention: ["rank"],
    nn.Retention: ["expand"], nn.GatedDeltaNet: ["key_heads", "expand"], nn.AFTFull: ["rank"], nn.AFTConv: ["heads", "window"],
    nn.RWKV4TimeMix: ["hidden"], nn.RWKV7ChannelMix: ["hidden"], nn.RWKV6TimeMix: ["blend_rank", "rank"], nn.RWKV7TimeMix: ["rank"], nn.S4: ["states"],
    nn.S4D: ["states"], nn.S5: ["states"], nn.GSS: ["inner", "hidden", "states"], nn.LRU: ["states"], nn.RGLRU: ["heads", "hidden"],
    nn.BlockState: ["heads", "block", "states"], nn.BlockRecurrent: ["horizon"], nn.H3: ["states"], nn.Hyena: ["length", "filter_hidden"],
    nn.Mega: ["states", "key_dim", "hidden"], nn.Mamba: ["states", "expand", "rank"], nn.Mamba2: ["heads", "expand", "state", "groups"], nn.MLSTM: ["key_dim"],
    nn.BiGS: ["hidden", "states"],
}  # fmt: skip


@pytest.mark.parametrize("mixer,field", [(mixer, field) for mixer, fields in SIZES.items() for field in fields])
def test_a_size_of_nothing_is_named(mixer, field):
    x_btd, positions = inputs(1, 3)
    with pytest.raises(ValueError, match=f"^{mixer.__name__}: {field}=0 must be at least 1"):
        jax.eval_shape(lambda: mixer(**{field: 0}).init(jax.random.key(0), x_btd, positions=positions, segment_ids=None))


@pytest.mark.parametrize("mixer", [nn.RGLRU(), nn.LRU(), nn.S4D(), nn.S5(), nn.Mamba(), nn.RWKV4TimeMix(), nn.Hyena(), nn.MLSTM(), nn.SLSTM()], ids=lambda m: type(m).__name__)
def test_the_state_of_another_model_is_named(mixer):
    x_btd, positions = inputs(1, 3)
    params = meta.unbox(jax.eval_shape(lambda: mixer.init(jax.random.key(0), x_btd, positions=positions, segment_ids=None)["params"]))
    other = mixer.init_state(1, 8, 2 * WIDTH, jnp.float32) if not isinstance(mixer, nn.S5) else nn.S5(states=5).init_state(1, 8, WIDTH, jnp.float32)
    with pytest.raises(ValueError, match="it is another model's state"):
        jax.eval_shape(lambda p: mixer.apply({"params": p}, x_btd, positions=positions, segment_ids=None, state=other), params)


@pytest.mark.parametrize(
    "mixer,other,words",
    [
        (nn.Mega(chunk=8), nn.Mega(chunk=4), "Mega: .*window=4.*this mixer has .*window=8"),
        (nn.Mega(), nn.Mega(chunk=4), "Mega: .*window=4.*this mixer has .*KVCache"),
        (nn.BlockState(block=8), nn.BlockState(block=4), "BlockState: .*window=4.*this mixer has .*window=8"),
        (nn.BlockRecurrent(block=6), nn.BlockRecurrent(block=3), "BlockRecurrent: .*window=3.*this mixer has .*window=6"),
        (nn.DeltaNet(), nn.DeltaNet(conv=None), "DeltaNet: the state is .*tails={}.*this mixer has .*{k, q, v}"),
        (nn.Mamba2(conv=None), nn.Mamba2(), "Mamba2: the state is .*{x, b, c}.*this mixer has .*tails={}"),
        (nn.SLSTM(), nn.SLSTM(conv=None), "SLSTM: the state is .*tails=\\(\\).*this mixer has .*tails=Tail"),
        (nn.AFTSimple(), nn.AFTFull(), "AFTSimple: the state is KVCache; this mixer has RecurrentState"),
    ],
)
def test_the_state_of_a_mixer_set_otherwise_is_named(mixer, other, words):
    x_btd, positions = inputs(1, 3)
    params = meta.unbox(jax.eval_shape(lambda: mixer.init(jax.random.key(0), x_btd, positions=positions, segment_ids=None)["params"]))
    state = other.init_state(1, 8, WIDTH, jnp.float32)
    with pytest.raises(ValueError, match=f"{words}.*it is another model's state"):
        jax.eval_shape(lambda p: mixer.apply({"params": p}, x_btd, positions=positions, segment_ids=None, state=state), params)


def test_arrays_that_do_not_fit_are_named():
    x, small = jnp.ones((1, 4, 6)), jnp.ones((1, 4, 5))
    with pytest.raises(ValueError, match=r"long_conv: a filter of 9 taps is longer than its buffer of 8 slots; make the state for 9 tokens"):
        ops.long_conv(x, jnp.ones((9, 6)), Past.empty(1, 8, 6, jnp.float32))
    with pytest.raises(ValueError, match="long_conv: the filter has 5 channels, its input 6"):
        ops.long_conv(x, jnp.ones((9, 5)))
    with pytest.raises(ValueError, match="linear_recurrence: a has shape"):
        ops.linear_recurrence(small, x)
    with pytest.raises(ValueError, match="ssm: .* do not fit an input of 6 channels"):
        ops.ssm(x, jnp.ones((5, 2)), jnp.ones((5, 2)), jnp.ones((5, 2)))
    with pytest.raises(ValueError, match="selective_scan: chunk=0"):
        ops.selective_scan(x, x, jnp.ones((6, 2)), x[..., :2], x[..., :2], chunk=0)


Q = jnp.ones((2, 4, 2, 8))


@pytest.mark.parametrize(
    "op,words",
    [
        (lambda: ops.linear_attention(Q, jnp.ones((2, 5, 2, 8)), jnp.ones((2, 5, 2, 3))), r"linear_attention: v has shape \(2, 5, 2, 3\), q \(2, 4, 2, 8\)"),
        (lambda: ops.linear_attention(Q, Q, jnp.ones((2, 5, 2, 8))), "linear_attention: v has shape"),
        (lambda: ops.linear_attention(Q, jnp.ones((2, 4, 1, 8)), Q), r"linear_attention: k has shape \(2, 4, 1, 8\), q .*repeat heads"),
        (lambda: ops.linear_attention(Q, Q[:1], Q[:1]), "linear_attention: v has shape"),
        (lambda: ops.linear_attention(Q, Q, Q, bonus_hk=jnp.ones((8,))), r"linear_attention: bonus has shape \(8,\), it must be \(2, 8\)"),
        (lambda: ops.delta_rule(Q, Q[..., :4], Q, jnp.ones((2, 4, 2))), "delta_rule: k has shape"),
        (lambda: ops.delta_rule(Q, Q, Q, jnp.ones((2,))), r"delta_rule: beta has shape \(2,\), it must be \(2, 4, 2\)"),
        (lambda: ops.dplr(Q, Q, Q, Q[..., :4], Q, -Q), "dplr: read has shape"),
        (lambda: ops.dplr(Q, Q, Q, Q, Q[:, :3], -Q), "dplr: write has shape"),
        (lambda: ops.dplr(Q, Q, Q, Q, Q, -Q, chunk=None), "chunk=None must be a power of two"),
    ],
)
def test_heads_that_do_not_fit_are_named(op, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(op)


PLACED = {"blocked": nn.AFTFull(length=4), "reference": nn.AFTFull(length=4, implementation="reference"), "local": nn.AFTLocal(length=4, window=3)}


@pytest.mark.parametrize("mixer", PLACED.values(), ids=PLACED)
def test_aft_has_no_number_for_a_token_beyond_its_length(mixer):
    """Decoded past the length, and in one document that is packed longer than it."""
    x_btd, positions = inputs(1, 6)
    params = init(mixer, x_btd[:, :4], positions=positions[:, :4], segment_ids=None)
    apply = jax.jit(lambda x, positions, segments, state: mixer.apply({"params": params}, x, positions=positions, segment_ids=segments, state=state))
    packed, _ = apply(x_btd, positions, jnp.ones((1, 6), jnp.int32), None)
    first, state = apply(x_btd[:, :3], positions[:, :3], None, mixer.init_state(1, 8, WIDTH, jnp.float32))
    second, _ = apply(x_btd[:, 3:], positions[:, 3:], None, state)
    for y_btd in (packed, np.concatenate([first, second], 1)):
        assert np.isfinite(y_btd[:, :4]).all() and np.isnan(y_btd[:, 4:]).all()
