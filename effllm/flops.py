"""FLOP and parameter conventions, in one place. A multiply-add counts as two FLOPs; every function says per what.

Convention of this code: forward FLOPs per token = 2·(weights that multiply) + mixing, where embedding look-ups multiply nothing,
a tied head multiplies once, and causal attention counts the half of the square that it needs. Training = 3 × forward
(the backward pass multiplies twice; recomputation under remat is not counted: that is model FLOPs, not hardware FLOPs).
"""

FORMULA = "training FLOPs/token = 3·(2·matmul parameters + mixing); causal attention counted half: 2·T·heads·head_dim a layer"

# Dense peak FLOP/s of one device by `device.device_kind` and dtype, from the makers' data sheets (without sparsity).
PEAKS: dict[str, dict[str, float]] = {
    "NVIDIA A100-SXM4-40GB": {"bfloat16": 312e12, "float32": 19.5e12},
    "NVIDIA A100-SXM4-80GB": {"bfloat16": 312e12, "float32": 19.5e12},
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989e12, "float32": 67e12},
    "NVIDIA H200": {"bfloat16": 989e12, "float32": 67e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5": {"bfloat16": 459e12},
    "TPU v5p": {"bfloat16": 459e12},
    "TPU v6 lite": {"bfloat16": 918e12},
}


def forward(matmul_params: int, mixing: float) -> float:
    """Forward FLOPs per token: 2·N + mixing."""
    return 2.0 * matmul_params + mixing


def training(matmul_params: int, mixing: float) -> float:
    """Training FLOPs per token: three forward passes' worth."""
    return 3.0 * forward(matmul_params, mixing)


def six_n(params: int) -> float:
    """Kaplan et al.'s 6·N per training token (arXiv 2001.08361), which leaves out mixing."""
    return 6.0 * params


def peak(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of one device, or None for hardware or a dtype that the table does not know."""
    return PEAKS.get(device_kind, {}).get(dtype)
