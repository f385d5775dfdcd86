"""Who may import whom, as the house's plan says; a new edge is a decision, made there first."""

import ast
from pathlib import Path

import effllm

ALLOWED = {
    "ops": set(), "kernels": {"ops"}, "weights": {"ops", "kernels"}, "shard": set(), "data": set(), "flops": set(), "scaling": {"flops"},
    "nn": {"ops", "kernels", "weights", "shard"}, "train": {"shard", "data", "flops"}, "tune": {"ops", "weights", "nn", "train"},
    "compress": {"ops", "kernels", "weights", "nn", "train", "tune"}, "infer": {"ops", "kernels", "weights", "shard", "nn"},
    "evaluate": {"nn", "weights", "infer", "data", "shard", "flops"}, "interop": {"nn", "weights"},
}  # fmt: skip
ROOT = Path(effllm.__file__).parent


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


def test_no_file_is_longer_than_400_lines():
    assert not [f.name for f in ROOT.rglob("*.py") if f.read_text().count("\n") > 400]
