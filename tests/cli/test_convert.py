"""effllm convert: weights and tokenizer both ways, and one line for each bad input."""

import json
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

from effllm.cli.convert import special_tokens
from effllm.config import Experiment, read_config
from effllm.data import Bytes, TokenizerFile, load_codec
from effllm.interop import load
from effllm.nn import MaskedLM
from tests.cli.test_errors import effllm, refused
from tests.interop.test_hf import GOLDEN, broken, written

WORDS = "once upon a time there was an old king who had three sons and one garden".split()


def with_tokenizer(directory, size=96):
    """A transformers directory of a golden file, with a tokenizer of its size."""
    library = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, **{w: i + 3 for i, w in enumerate(WORDS)}, "<unk>": size - 1}, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "gpt2.npz"))


@pytest.fixture(scope="module")
def run(golden, tmp_path_factory):
    """A run directory of a sharded transformers directory, which is gone afterwards."""
    folder = tmp_path_factory.mktemp("convert")
    source = with_tokenizer(written(golden, folder / "source", shards=2))
    code, err, out = effllm("convert", source, folder / "run", "--json", "--quiet")
    assert code == 0, err
    said = json.loads(out)
    assert said["family"] == "gpt2" and said["parameters"] == sum(v.size for k, v in golden.items() if k.startswith("weight/"))
    source.rename(folder / "elsewhere")
    return folder / "run"


def test_a_converted_model_writes_and_keeps_its_tokenizer(run):
    code, err, out = effllm("sample", run, "--prompt", "once upon a", "--tokens", 4, "--temperature", 0, "--json")
    assert code == 0, err
    assert json.loads(out)["step"] == 0
    code, err, _ = effllm("sample", run, "--prompt", "once")
    assert code == 0, err
    codec = load_codec(run)
    assert (codec.bos, codec.eos) == (1, 2) and codec.encode(b"once upon").tolist() == [3, 4]
    experiment = read_config(run)
    assert experiment.data.sequence_length == 128 and experiment.data.tokenizer == TokenizerFile(str(run / "transformers/tokenizer.json"), "</s>", "<s>")
    assert experiment.data.tokenizer.fit(iter(())).vocab_size == 96


def test_a_report_says_what_is_known(run, tmp_path):
    assert effllm("report", run, "--out", tmp_path / "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert "converted from gpt2 of transformers; not trained here" in page and "steps done" not in page and "A —-parameter" not in page


@pytest.mark.parametrize("ends,written", [([7, 2, 9], [7, 2, 9]), ([7, 9], 2), (7, 2), (None, 2)])
def test_several_ends_stay_several(ends, written):
    assert special_tokens({"eos_token_id": ends, "pad_token_id": 0, "vocab_size": 9}, SimpleNamespace(bos=1, eos=2)) == {
        "bos_token_id": 1, "eos_token_id": written, "pad_token_id": 0,
    }  # fmt: skip


def test_there_and_back_every_tensor_and_the_tokenizer_are_the_same(run, golden, tmp_path):
    code, err, out = effllm("convert", run, tmp_path / "back", "--quiet")
    assert code == 0 and "from_pretrained" in out, err
    again = load_file(tmp_path / "back" / "model.safetensors")
    assert again.keys() == {k.removeprefix("weight/") for k in golden if k.startswith("weight/")}
    assert all(again[k].tobytes() == golden[f"weight/{k}"].tobytes() for k in again)
    said = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {k: v for k, v in said.items() if k.endswith("_token_id")} == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vocabularies = [Tokenizer.from_file(str(d / "tokenizer.json")).get_vocab() for d in (tmp_path / "back", run / "transformers")]
    assert vocabularies[0] == vocabularies[1]


def test_an_encoder_goes_on_filling_its_own_mask(tmp_path):
    golden = dict(np.load(GOLDEN / "encoders" / "bert.npz"))
    source = with_tokenizer(written(golden, tmp_path / "source"))
    assert "has none of [MASK], <mask>, which an encoder fills" in refused("convert", source, tmp_path / "run", "--quiet")
    (source / "tokenizer.json").write_text((source / "tokenizer.json").read_text().replace('"garden"', '"[MASK]"'))
    assert "EncoderLM: 1000 tokens are more than the" in refused("convert", source, tmp_path / "run", "--length", 1000, "--quiet")
    code, err, out = effllm("convert", source, tmp_path / "run", "--quiet")
    assert code == 0 and "effllm eval" in out, err
    mask = 3 + WORDS.index("garden")
    assert read_config(tmp_path / "run").objective == MaskedLM(mask_token=mask, special=(mask,))
    code, err, out = effllm("convert", tmp_path / "run", tmp_path / "back", "--quiet")
    assert code == 0 and "AutoModelForMaskedLM" in out, err
    jax.tree.map(np.testing.assert_array_equal, load(source)[1], load(tmp_path / "back")[1])


def test_a_pooler_that_is_left_behind_is_named(tmp_path):
    source = with_tokenizer(written(dict(np.load(GOLDEN / "encoders" / "bigbird_full.npz")), tmp_path / "source"))
    (source / "tokenizer.json").write_text((source / "tokenizer.json").read_text().replace('"garden"', '"[MASK]"'))
    code, err, out = effllm("convert", source, tmp_path / "run", "--quiet")
    assert code == 0 and "unread bert.pooler.bias, bert.pooler.weight: nothing here uses them" in out, err


def test_bfloat16_weights_come_through(golden, tmp_path):
    source = with_tokenizer(written(golden, tmp_path / "source", dtype=ml_dtypes.bfloat16))
    assert effllm("convert", source, tmp_path / "run", "--quiet", "--length", 16)[0] == 0
    assert effllm("convert", tmp_path / "run", tmp_path / "back", "--quiet")[0] == 0
    before, after = load(source)[1], load(tmp_path / "back")[1]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a, np.float32), b), before, after)


def test_bytes_become_a_tokenizer_of_the_same_ids():
    text = "tab\t, é, 漢 and\n\0 nul"
    library = Tokenizer.from_str(json.dumps(Bytes().fit(iter(())).library_json()))
    assert library.encode(text).ids == list(text.encode())
    assert library.decode(list(text.encode())) == text


@pytest.mark.parametrize(
    "change,words",
    [
        ({"config": {"model_type": "mamba3"}}, ["model_type='mamba3' is not covered", "gpt2"]),
        ({"config": {"scale_attn_by_inverse_layer_idx": True}}, ["scale_attn_by_inverse_layer_idx=True"]),
        ({"tensors": {"transformer.ln_f.weight": lambda a: None}}, ["lacks transformer.ln_f.weight (1 tensors missing, 0 left over)"]),
        ({"tensors": {"transformer.h.9.extra": lambda a: a}}, ["holds transformer.h.9.extra"]),
        ({"tensors": {"transformer.h.1.attn.c_attn.weight": lambda a: a[:5]}}, ["transformer.h.1.attn.c_attn.weight has shape (5, 192)", "needs (64, 192)"]),
        ({"config": {"eos_token_id": 77}}, ["eos_token_id=77", "--end TOKEN"]),
    ],
    ids=["architecture", "setting", "missing", "extra", "shape", "end"],
)
def test_what_does_not_fit_is_one_line(golden, tmp_path, change, words):
    source = with_tokenizer(broken(golden, tmp_path / "source", **change))
    err = refused("convert", source, tmp_path / "run", "--quiet")
    assert all(word in err for word in words), err
    assert not (tmp_path / "run").exists()


def test_directories_and_files_that_cannot_be_used(golden, run, tmp_path):
    source = with_tokenizer(written(golden, tmp_path / "source", shards=2))
    target = tmp_path / "run"
    assert f"{run} exists and is not empty" in refused("convert", source, run)
    assert "config.json does not exist" in refused("convert", tmp_path / "nothing", target)
    assert "200 tokens are more than the 128 positions" in refused("convert", source, target, "--length", 200, "--quiet")
    with_tokenizer(source, size=100)
    assert "has 100 tokens, the model 96" in refused("convert", source, target, "--quiet")
    (source / "tokenizer.json").unlink()
    assert "--tokenizer FILE" in refused("convert", source, target, "--quiet")
    with_tokenizer(source)
    shard = source / "model-1-of-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:-50])
    assert f"{shard} is not a whole safetensors file" in refused("convert", source, target, "--quiet")
    (source / "config.json").write_text("[]")
    assert "is not a JSON object" in refused("convert", source, target)
    (source / "config.json").write_text("{}")
    assert "neither a model_type" in refused("convert", source, target)
    assert not target.exists()


def test_a_run_whose_model_transformers_lacks_is_refused(run, tmp_path):
    from effllm.config import write_config

    experiment = read_config(run)
    write_config(tmp_path / "capped", Experiment(model=experiment.model.clone(soft_cap=3.0), data=experiment.data))
    (tmp_path / "capped" / "tokenizer.json").write_bytes((run / "tokenizer.json").read_bytes())
    assert "transformers cannot say this model: soft_cap is 3.0, not None as in transformers' gpt2" in refused("convert", tmp_path / "capped", tmp_path / "out", "--quiet")


TUNE = """
from effllm.config import Experiment
from effllm.data import Data, TextFiles, TokenizerFile
from effllm.config import read_config
from effllm.train import AdamW
from effllm.shard import MeshShape

def config():
    model = read_config({run!r}).model
    data = Data(source=TextFiles({corpus!r}), tokenizer=TokenizerFile({tokenizer!r}, "</s>"), sequence_length=16, batch_size=4, held_out=0.2)
    return Experiment(model=model, data=data, optimizer=AdamW(learning_rate=0.0), mesh=MeshShape(1), steps=1)
"""


def test_training_begins_with_converted_weights(run, golden, tiny_config, tmp_path):
    """At a learning rate of 0 one step leaves them as they were; another model or tokenizer is refused."""
    folder = tiny_config(tmp_path / "tiny")
    text = TUNE.format(run=str(run), corpus=str(folder / "corpus"), tokenizer=str(run / "transformers" / "tokenizer.json"))
    (tmp_path / "tune.py").write_text(text)
    code, err, _ = effllm("train", tmp_path / "tune.py", "--run-dir", tmp_path / "tuned", "--init-from", run, "--quiet")
    assert code == 0, err
    assert json.loads((tmp_path / "tuned" / "run.json").read_text())["init_from"] == str(run)
    assert effllm("convert", tmp_path / "tuned", tmp_path / "out", "--quiet")[0] == 0
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert all(again[k].tobytes() == golden[f"weight/{k}"].tobytes() for k in again)
    err = refused("train", tmp_path / "tune.py", "model.vocab_size=120", "--run-dir", tmp_path / "other", "--init-from", run)
    assert "parameter embed.embedding is (96, 64) there and (120, 64) in this config" in err
    (tmp_path / "bytes.py").write_text(text.replace('"</s>"', '"<s>"'))
    assert "has another tokenizer" in refused("train", tmp_path / "bytes.py", "--run-dir", tmp_path / "third", "--init-from", run)
