"""effllm show"""

import json
import math

import click
import jax

from effllm import flops
from effllm.config import assemble, load_config, to_json
from effllm.config import tree as config_tree
from effllm.evaluate import Cost, state_bytes
from effllm.evaluate.report import number


@click.command("show")
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_command(config, overrides, as_json):
    """The tree of an experiment, its parameters, FLOPs per token and bytes per device; trains nothing."""
    experiment = load_config(config, overrides)
    program = assemble(experiment)
    model, length = experiment.model, experiment.data.sequence_length
    cost = Cost.of(model, program.abstract.params, length)
    per_device = {name: _bytes_per_device(getattr(program.abstract, name)) for name in ("params", "opt_state")}
    if as_json:
        sizes = {"state_bytes": state_bytes(model, length), "bytes_per_device": per_device, "mesh": dict(program.mesh.shape)}
        click.echo(json.dumps({"config": to_json(experiment), "cost": cost.__dict__ | sizes}))
        return
    for line in outline(experiment):
        click.echo(line)
    click.echo("\nparameters")
    for name, leaf in _parts(program.abstract.params):
        click.echo(f"  {name:44} {str(leaf.shape):>18} {number(math.prod(leaf.shape)):>8}  {_axes(leaf)}")
    click.echo(f"  {'all':44} {'':18} {number(cost.parameters):>8}, {number(cost.bytes, 'B')}")
    click.echo(f"\nFLOPs per token at length {length}: forward {number(cost.forward_flops)}, training {number(cost.training_flops)}")
    click.echo(f"  {flops.FORMULA}")
    for i, block in enumerate(model.blocks):
        mixer = block.mixer
        mixing = f"  block {i}, {type(mixer).__name__}: mixing {number(block.flops(length, model.width), 'FLOP')} a token"
        if not model.decodes:
            click.echo(mixing)
            continue
        state = mixer.init_state
        sizes = jax.eval_shape(lambda state=state: state(1, length, model.width, model.dtype))
        size = sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(sizes))
        click.echo(f"{mixing}; decoding state {number(size, 'B')} a layer and sequence")
    shape = ", ".join(f"{k}={v}" for k, v in program.mesh.shape.items())
    click.echo(f"\nbytes per device on mesh {shape}: parameters {number(per_device['params'], 'B')}, optimizer state {number(per_device['opt_state'], 'B')}, "
               f"gradients {number(per_device['params'], 'B')}; activations come on top")  # fmt: skip


def outline(node, name: str = "", depth: int = 0) -> list[str]:
    """The tree as indented lines, one a field."""
    pad = "  " * depth
    if isinstance(node, tuple) and any(map(config_tree.is_node, node)):
        return [line for i, value in enumerate(node) for line in outline(value, f"{name}.{i}", depth)]
    if not config_tree.is_node(node):
        shown = getattr(node, "__name__", None) or repr(node)
        return [f"{pad}{name} = {shown}"]
    lines = [f"{pad}{name + ': ' if name else ''}{type(node).__name__}"]
    for key, value in config_tree.fields(node).items():
        lines += outline(value, key, depth + 1)
    return lines


def _parts(params):
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]


def _axes(leaf) -> str:
    """How a parameter is cut: "2 × 1 × 4" devices along its axes, nothing where it is whole everywhere."""
    cuts = [whole // part for whole, part in zip(leaf.shape, leaf.sharding.shard_shape(leaf.shape), strict=True)]
    return f"cut {' × '.join(map(str, cuts))}" if max(cuts, default=1) > 1 else ""


def _bytes_per_device(tree) -> int:
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))
