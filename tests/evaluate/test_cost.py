"""Figures of quality, cost and energy against closed forms."""

import math
import sys
import types

import jax.numpy as jnp
import pytest

from effllm import flops
from effllm.evaluate import Cost, energy, held_out, state_bytes, utilisation
from effllm.evaluate.report import number
from effllm.nn import Attention, Block, DecoderLM, SwiGLU
from tests.tiny import init


def test_parameters_and_flops_of_a_small_llama_by_hand():
    model = DecoderLM(vocab_size=50, width=32, depth=2, blocks=(Block(Attention(heads=4, kv_heads=2), SwiGLU(hidden=48)),), dtype="bfloat16")
    params = init(model, jnp.zeros((1, 4), jnp.int32))
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48
    cost = Cost.of(model, params, 10)
    assert cost.parameters == 2 * (layer + 2 * 32) + 2 * 50 * 32 + 32
    assert cost.bytes == 4 * cost.parameters
    assert cost.forward_flops == 2 * (2 * layer + 50 * 32) + 2 * (2 * 10 * 32)
    assert cost.training_flops == 3 * cost.forward_flops
    assert state_bytes(model, 10) == 4 + 2 * (2 * 10 * 2 * 8 * 2 + 3 * 10 * 4 + 2 * 4)  # counter, then keys and values in bfloat16; segments, orders, positions; length and last segment


def test_a_tied_head_multiplies_and_is_stored_once():
    tied = DecoderLM(vocab_size=50, width=32, depth=1, tied=True)
    free = DecoderLM(vocab_size=50, width=32, depth=1)
    costs = [Cost.of(m, init(m, jnp.zeros((1, 4), jnp.int32)), 8) for m in (tied, free)]
    assert costs[0].forward_flops == costs[1].forward_flops and costs[1].parameters - costs[0].parameters == 50 * 32


def test_utilisation_says_when_it_cannot_know():
    assert utilisation(1e6, 9.89e8, 2, "NVIDIA H100 80GB HBM3", "bfloat16")[0] == pytest.approx(0.5)
    assert utilisation(1e6, 1e9, 1, "cpu", "float32") == (None, "no peak known for 'cpu' in float32")
    assert flops.peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12


def test_a_uniform_model_over_256_bytes_has_8_bits_a_byte():
    batches = [{"n": 3.0}, {"n": 5.0}]
    quality = held_out(lambda params, b: {"loss": jnp.log(256.0), "tokens": jnp.float32(b["n"])}, None, batches, bytes_per_token=1.0)
    assert quality.tokens == 8 and quality.bits_per_byte == pytest.approx(8.0) and quality.perplexity == pytest.approx(256.0, rel=1e-5)
    weighted = held_out(lambda params, b: {"loss": jnp.float32(b["n"]), "tokens": jnp.float32(b["n"])}, None, batches, bytes_per_token=2.0)
    assert weighted.loss == pytest.approx(34 / 8) and weighted.bits_per_byte == pytest.approx(34 / 8 / math.log(2) / 2)
    assert held_out(lambda params, b: {"loss": 800.0, "tokens": 1.0}, None, batches, 1.0).to_json()["perplexity"] == math.inf  # exp(800) is no float
    with pytest.raises(ValueError, match="no held-out token"):
        held_out(None, None, [], 1.0)


def test_a_rapl_counter_that_wraps(tmp_path, monkeypatch):
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "max_energy_range_uj").write_text("1000000000")
    (package / "energy_uj").write_text("999000000")
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    meter = energy.Meter()
    assert meter.source == "RAPL"
    before = meter.read()
    (package / "energy_uj").write_text("2000000")
    assert meter.since(before) == pytest.approx(3.0)
    assert energy.carbon(3.6e6, 480) == pytest.approx(480)


def test_the_whole_machine_is_not_another_package(tmp_path, monkeypatch):
    for number, name in enumerate(("package-0", "psys")):
        (tmp_path / f"intel-rapl:{number}").mkdir()
        (tmp_path / f"intel-rapl:{number}" / "name").write_text(f"{name}\n")
        (tmp_path / f"intel-rapl:{number}" / "energy_uj").write_text("1000000")
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    monkeypatch.setattr(energy, "_nvml_devices", list)
    assert energy.Meter().read() == [1.0]


def test_a_gpu_without_a_counter_is_left_out(tmp_path, monkeypatch):
    class NVMLError(Exception):
        pass

    def joules(gpu):
        if gpu == 0:
            raise NVMLError("Not Supported")
        return 5000

    fake = types.SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 2, nvmlDeviceGetHandleByIndex=int, nvmlDeviceGetTotalEnergyConsumption=joules
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    meter = energy.Meter()
    assert meter.source == "NVML" and meter.read() == [5.0]


def test_no_counter_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    monkeypatch.setattr(energy, "_nvml_devices", list)
    assert energy.Meter().source is None


@pytest.mark.parametrize("value,text", [(None, "—"), (0.0, "0"), (999, "999"), (1234, "1.23 k"), (3.3e6, "3.3 M"), (2e12, "2 T")])
def test_figures_in_words(value, text):
    assert number(value) == text


def test_a_unit_follows_its_prefix():
    assert number(1536, "B") == "1.54 kB" and number(12, "B") == "12 B"
