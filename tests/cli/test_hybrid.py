"""A hybrid model from one line of config, as Griffin has it: three RG-LRUs to one attention in a window."""

import json

import jax
import jax.numpy as jnp
from click.testing import CliRunner

from effllm.cli import main
from effllm.config import load_config, override
from effllm.nn import RGLRU, Attention

LINE = "model.blocks=(Block(RGLRU()), Block(RGLRU()), Block(RGLRU()), Block(Attention(heads=2, kv_heads=1, window=8)))"


def test_a_hybrid_trains_from_one_line(tiny_config, tmp_path):
    folder = tiny_config(tmp_path / "hybrid", steps=12, log_every=4, save_every=12)
    model = override(override(load_config(str(folder / "config.py")), "model.depth=4"), LINE).model
    assert [type(block.mixer) for block in model.blocks] == [RGLRU, RGLRU, RGLRU, Attention]
    assert jax.tree.map(jnp.shape, model.init_state(1, 64)) == jax.tree.map(jnp.shape, model.init_state(1, 640))
    args = ["train", str(folder / "config.py"), "model.depth=4", LINE, "--run-dir", str(folder / "run")]
    result = CliRunner().invoke(main, args, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    losses = [json.loads(line)["loss"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.2
