"""Experiments as values: Python files that build the real objects, `path=value` overrides, JSON."""

from effllm.config.experiment import CHANGEABLE, Experiment, validate
from effllm.config.files import load_config, read_config, run_directory, write_config
from effllm.config.hidden_states import HiddenStates
from effllm.config.override import override
from effllm.config.program import Program, assemble
from effllm.config.serial import dumps, from_json, to_json

__all__ = [
    "CHANGEABLE", "Experiment", "HiddenStates", "Program", "assemble", "dumps", "from_json", "load_config", "override", "read_config", "run_directory",
    "to_json", "validate", "write_config",
]  # fmt: skip
