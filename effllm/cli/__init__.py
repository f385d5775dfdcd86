"""The verbs: effllm train, show, eval, sample, report, convert, …"""

import os
import sys
import traceback
from pathlib import Path

import click

HOME = str(Path(__file__).parents[1])


def expected(error: BaseException) -> bool:
    """Whether `error` is the system's (a full disk, a missing right) or effllm's own word on its input, as opposed to a fault below."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, OSError) or bool(frames) and frames[-1].filename.startswith(HOME)


class Verbs(click.Group):
    """A group that turns an expected error of any verb into one line on stderr and exit code 2; EFFLLM_TRACEBACK=1 shows where it arose."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            if os.environ.get("EFFLLM_TRACEBACK") or not expected(error):
                raise
            click.echo(f"effllm: {' '.join(str(error).split())}", err=True)
            sys.stderr.flush()
            ctx.exit(2)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="effllm")
def main():
    """Train, evaluate, sample and compare language models; each experiment is one Python file.

    \b
    effllm train  configs/first.py                       a real model on real text, in three minutes
    effllm train  configs/first.py model.depth=2         the same with one field changed, in its own directory
    effllm eval   runs/first                             loss, bits per byte, perplexity
    effllm sample runs/first --prompt "def "             what it writes
    effllm report runs/first runs/first,model.depth=2    both on the same axes
    effllm convert models/pythia runs/pythia             weights of transformers in, or a run's out
    """


from effllm.cli.convert import convert_command  # noqa: E402
from effllm.cli.data import data_group  # noqa: E402
from effllm.cli.evaluate import eval_command  # noqa: E402
from effllm.cli.report import report_command  # noqa: E402
from effllm.cli.sample import sample_command  # noqa: E402
from effllm.cli.scaling import scaling_command  # noqa: E402
from effllm.cli.show import show_command  # noqa: E402
from effllm.cli.train import train_command  # noqa: E402

for command in (train_command, show_command, eval_command, sample_command, report_command, convert_command, data_group, scaling_command):
    main.add_command(command)
