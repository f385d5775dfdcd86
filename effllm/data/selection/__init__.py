"""Selection (survey §4.2): which documents, how often, and which of a batch; pure functions over scores, logits, gradients and embeddings.

    keep_d = prune(perplexities, keep=0.5, part="middle")
    index = gumbel_topk(key, DSIR.fit(target, raw).log_weights(raw), count)

Where a score needs a model, the model is the caller's: perplexities and EL2N of a small proxy select for a large model, and instruction
data are selected by the same functions on instruction–answer texts.
"""

from effllm.data.selection.diversity import dpp_greedy, k_center
from effllm.data.selection.doremi import DoReMiState, doremi_init, doremi_update, excess
from effllm.data.selection.dsir import DSIR, bucket_counts
from effllm.data.selection.el2n import el2n, sequence_el2n
from effllm.data.selection.forgetting import forgetting_events, forgetting_update
from effllm.data.selection.gumbel import gumbel_topk, sample_by_rating
from effllm.data.selection.influence import adam_direction, features, influence, project
from effllm.data.selection.mixing import temperature_mix, unimax
from effllm.data.selection.mixing_laws import MixingLaw
from effllm.data.selection.online import importance, last_layer_norm, rho, softly, top
from effllm.data.selection.prototypes import prototype_distance
from effllm.data.selection.prune import prune
from effllm.data.selection.uncertainty import bald, entropy, least_confidence, margin
from effllm.data.selection.undersample import importance_undersample, random_undersample

__all__ = [
    "DSIR", "DoReMiState", "MixingLaw", "adam_direction", "bald", "bucket_counts", "doremi_init", "doremi_update", "dpp_greedy", "el2n", "entropy", "excess",
    "features", "forgetting_events", "forgetting_update", "gumbel_topk", "importance", "importance_undersample", "influence", "k_center", "last_layer_norm",
    "least_confidence", "margin", "project", "prototype_distance", "prune", "random_undersample", "rho", "sample_by_rating", "sequence_el2n", "softly",
    "temperature_mix", "top", "unimax",
]
