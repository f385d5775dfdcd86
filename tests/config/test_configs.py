"""Config files: their golden JSON, the way to JSON and back, overrides."""

import dataclasses
import importlib
import json
import re
from pathlib import Path

import jax
import pytest
from flax import linen

from effllm import nn
from effllm.cli.train import train_command
from effllm.config import Experiment, assemble, dumps, from_json, load_config, names, override, read_config, run_directory, to_json, write_config
from effllm.data import BPE, TFDS, TextFiles
from effllm.nn import Attention, Block, DecoderLM
from effllm.shard import MeshShape
from effllm.train import WSD, AdamW

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/configs"
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_a_shipped_config_is_its_golden_json(file):
    """A changed default shows here; if it is meant, write the new text (`dumps(load_config(file))`) into tests/golden/configs."""
    text = dumps(load_config(str(file)))
    assert text == (GOLDEN / f"{file.stem}.json").read_text()
    assert from_json(json.loads(text)) == load_config(str(file))


def test_every_config_promises_its_command():
    for file in CONFIGS:
        assert f"effllm train configs/{file.name}" in file.read_text().split('"""')[1]


def test_overrides_with_parentheses_are_shown_in_quotes():
    texts = [(ROOT / "README.md").read_text(), train_command.help, *(file.read_text().split('"""')[1] for file in CONFIGS)]
    assert not [shown for text in texts for shown in re.findall(r"(?:^|[ `])((?:select|\w+(?:\.\w+)+)=\w*\(.*)", text, re.M)]


def test_a_rich_tree_comes_back_equal():
    blocks = (Block(Attention(kv_heads=2, qk_norm=nn.LayerNorm(bias=False)), nn.MLP(activation=nn.gelu)), Block(ffn=None, dropout=0.1))
    tree = Experiment(DecoderLM(blocks=blocks, soft_cap=3.0, remat="dots"), mesh=MeshShape(2, 2), optimizer=AdamW(schedule=WSD(), clip=None))
    back = from_json(json.loads(dumps(tree)))
    assert back == tree and hash(back) == hash(tree)
    assert back.model.blocks[0].ffn.activation is nn.gelu and isinstance(back.model.blocks, tuple)


def test_every_seed_that_the_data_take_begins_a_run():
    def key(seed):
        model = DecoderLM(vocab_size=8, width=4, depth=1, blocks=(Block(ffn=None, mixer=Attention(heads=1)),))
        return assemble(Experiment(model, mesh=MeshShape(1), seed=seed)).init().key

    assert (key(5) == jax.random.key_data(jax.random.split(jax.random.key(5))[1])).all() and (key(2**32 - 1) != key(5)).any()


def test_a_start_killed_while_it_wrote_the_config_starts_again(tmp_path):
    for name in (".lock", "config.tmp"):
        (tmp_path / name).touch()
    write_config(tmp_path, Experiment())
    assert read_config(tmp_path) == Experiment() and not (tmp_path / "config.tmp").exists()


OWN = '''
from effllm.config import Experiment
from effllm.nn import MLP, Block, DecoderLM

class Own(MLP):
    pass

def square(x):
    return x * x

def config():
    return Experiment(DecoderLM(blocks=(Block(ffn=Own(activation=square)),)))
'''


def test_a_run_of_the_users_own_classes_comes_back_with_its_overrides(tmp_path):
    """Heads have no shape of their own: with the file's number of them the checkpoint would load and compute something else."""
    (tmp_path / "own.py").write_text(OWN)
    experiment = load_config(str(tmp_path / "own.py"), ("model.blocks.0.mixer.heads=2", "seed=7"))
    write_config(tmp_path / "run", experiment)
    with pytest.raises(ValueError, match="--config FILE"):
        read_config(tmp_path / "run")
    back = read_config(tmp_path / "run", str(tmp_path / "own.py"))
    assert back.seed == 7 and back.model.blocks[0].mixer == experiment.model.blocks[0].mixer and dumps(back) == dumps(experiment)


def test_a_closure_is_refused():
    tree = Experiment(DecoderLM(blocks=(Block(ffn=nn.MLP(activation=lambda x: x)),)))
    with pytest.raises(ValueError, match="is a closure"):
        to_json(tree)


@pytest.mark.parametrize(
    "text,get,value",
    [
        ("steps=7", lambda e: e.steps, 7),
        ("optimizer.learning_rate=1", lambda e: e.optimizer.learning_rate, 1.0),
        ("optimizer.learning_rate=2e-3", lambda e: e.optimizer.learning_rate, 2e-3),
        ("optimizer.clip=None", lambda e: e.optimizer.clip, None),
        ("optimizer.decay=('kernel',)", lambda e: e.optimizer.decay, ("kernel",)),
        ("optimizer.schedule=WSD(decay=0.5)", lambda e: e.optimizer.schedule, WSD(decay=0.5)),
        ("model.dtype=bfloat16", lambda e: e.model.dtype, "bfloat16"),
        ("model.tied=True", lambda e: e.model.tied, True),
        ("model.blocks.0.mixer.heads=8", lambda e: e.model.blocks[0].mixer.heads, 8),
        ("model.blocks.0.mixer=Attention(heads=2,position=RoPE(base=1e6))", lambda e: e.model.blocks[0].mixer, Attention(heads=2, position=nn.RoPE(1e6))),
        ("model.blocks=(Block(),Block(ffn=None))", lambda e: e.model.blocks, (Block(), Block(ffn=None))),
        ("model.blocks.0.ffn.activation=relu", lambda e: e.model.blocks[0].ffn.activation, linen.relu),
        ("model.blocks.0.ffn=None", lambda e: e.model.blocks[0].ffn, None),
        ("data.tokenizer=BPE(1000)", lambda e: e.data.tokenizer, BPE(1000)),
        ("data.source=TextFiles(path='a b,c')", lambda e: e.data.source, TextFiles("a b,c")),
        ("data.source=TFDS(name='lm1b')", lambda e: e.data.source, TFDS("lm1b")),
        ("data.source=TFDS('lm1b')", lambda e: e.data.source, TFDS("lm1b")),
        ("data.cache=/tmp/x", lambda e: e.data.cache, "/tmp/x"),
        ("mesh.fsdp=4", lambda e: e.mesh.fsdp, 4),
        ("prompt=3 = three", lambda e: e.prompt, "3 = three"),
    ],
)
def test_overrides(text, get, value):
    before = Experiment()
    after = override(before, text)
    assert get(after) == value and type(get(after)) is type(value)
    assert before == Experiment() != after


def test_a_short_name_means_one_class():
    found = {}
    for room in map(importlib.import_module, names.ROOMS):
        for name in getattr(room, "__all__", ()):
            value = getattr(room, name)
            if dataclasses.is_dataclass(value) and isinstance(value, type):
                assert found.setdefault(name, value) is value, f"{found[name]} and {value} are both {name} on the command line"
    assert len(found) > 40 and set(found) <= set(names.classes())


def test_an_override_changes_one_field_only():
    after = override(Experiment(), "model.width=64")
    assert dataclasses.replace(after, model=Experiment().model) == Experiment()
    assert after.model.clone(width=256) == Experiment().model


def test_directories_are_named_after_config_and_overrides():
    assert run_directory("configs/first.py", ()) == Path("runs/first")
    assert run_directory("configs/first.py", ("steps=3", "model.depth=2")) == Path("runs/first,model.depth=2,steps=3")
    awkward = {run_directory("c.py", (f"model.blocks.0.mixer=Attention(heads={h})",)).name for h in (1, 2)}
    assert len(awkward) == 2 and not any(set("()/ ") & set(name) for name in awkward)
