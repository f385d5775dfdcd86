"""Pallas forms of the hot ops: same name and signature as the op in effllm.ops."""
