"""Evaluation (survey §2): quality, cost, baselines, reports."""

from effllm.evaluate.baselines import baselines
from effllm.evaluate.cost import Cost, inference, peak_memory, state_bytes, utilisation
from effllm.evaluate.quality import Quality, held_out
from effllm.evaluate.report import RunRecord, render

__all__ = ["Cost", "Quality", "RunRecord", "baselines", "held_out", "inference", "peak_memory", "render", "state_bytes", "utilisation"]
