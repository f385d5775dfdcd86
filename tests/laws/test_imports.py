"""Who may import whom, as the house's plan says; a new edge is a decision, made there first."""

import ast
import sys
from pathlib import Path

import effllm

ALLOWED = {
    "ops": set(), "kernels": {"ops"}, "weights": {"ops", "kernels"}, "shard": set(), "data": set(), "flops": set(), "scaling": {"flops"},
    "nn": {"ops", "kernels", "weights", "shard"}, "train": {"shard", "data", "flops"}, "tune": {"ops", "weights", "nn", "train"},
    "compress": {"ops", "kernels", "weights", "nn", "train", "tune"}, "infer": {"ops", "kernels", "weights", "shard", "nn"},
    "evaluate": {"nn", "weights", "infer", "data", "shard", "flops"}, "interop": {"nn", "weights"},
}  # fmt: skip
ROOT = Path(effllm.__file__).parent
BROUGHT = {"absl", "ml_dtypes"}  # by grain and jax
EXTRAS = {"apache_beam", "pyarrow", "pynvml"}


def imported(tree: ast.AST) -> set[str]:
    """Rooms of effllm that a module imports."""
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            rooms |= {a.name for a in node.names} if node.module == "effllm" else {node.module.split(".")[1]} if node.module.startswith("effllm.") else set()
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("effllm.")}
    return rooms


def test_rooms_import_only_what_they_may():
    wrong = []
    for file in ROOT.rglob("*.py"):
        room = file.relative_to(ROOT).parts[0].removesuffix(".py")
        for other in imported(ast.parse(file.read_text())) - {room}:
            if room in ALLOWED and other not in ALLOWED[room]:
                wrong.append(f"{file.relative_to(ROOT)} imports {other}")
    assert not wrong


def outside(tree: ast.AST) -> set[str]:
    """Packages beside effllm and the standard library that a module imports."""
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"effllm"}


def test_installing_effllm_installs_what_it_imports():
    calls = [node for node in ast.walk(ast.parse((ROOT.parent / "setup.py").read_text())) if isinstance(node, ast.keyword)]
    installed = next(ast.literal_eval(node.value) for node in calls if node.arg == "install_requires")
    needed = set().union(*(outside(ast.parse(file.read_text())) for file in ROOT.rglob("*.py"))) - BROUGHT - EXTRAS
    assert not [name for name in needed if not any(line.replace("-", "_").startswith(name) for line in installed)]


def test_no_file_is_longer_than_400_lines():
    assert not [f.name for f in ROOT.rglob("*.py") if f.read_text().count("\n") > 400]
