"""Scaling laws, one file a family."""

from effllm.scaling.laws.alabdulmohsin import Sigmoidal
from effllm.scaling.laws.busbridge import Distillation
from effllm.scaling.laws.caballero import Broken, TwiceBroken
from effllm.scaling.laws.clark import Routed
from effllm.scaling.laws.gadre import Downstream, OverTraining
from effllm.scaling.laws.hernandez import Transfer
from effllm.scaling.laws.hoffmann import Chinchilla
from effllm.scaling.laws.hyperparameters import BatchSize, CriticalBatch, LearningRate, OfCompute
from effllm.scaling.laws.kaplan import Kaplan
from effllm.scaling.laws.krajewski import FineGrained
from effllm.scaling.laws.kumar import PostTraining, Precision, PrecisionOfEach
from effllm.scaling.laws.muennighoff import DataConstrained
from effllm.scaling.laws.power import Henighan, PowerLaw
from effllm.scaling.laws.sorscher import Pruned

__all__ = [
    "BatchSize", "Broken", "Chinchilla", "CriticalBatch", "DataConstrained", "Distillation", "Downstream", "FineGrained", "Henighan", "Kaplan",
    "LearningRate", "OfCompute", "OverTraining", "PostTraining", "PowerLaw", "Precision", "PrecisionOfEach", "Pruned", "Routed", "Sigmoidal",
    "Transfer", "TwiceBroken",
]  # fmt: skip
