"""Filters: rules that look at one text and answer (keep, reason).

    documents = keep(source.documents(), (GopherRepetition(), GopherQuality(), C4(any_ending=True), FineWeb()), dropped := Counter())

That order, after a language filter and before deduplication, is FineWeb's (arXiv 2406.17557).
"""

from effllm.data.filters.base import KEEP, Filter, Verdict, judge_all, keep
from effllm.data.filters.blocklist import Blocklist
from effllm.data.filters.c4 import C4
from effllm.data.filters.classifier import LinearClassifier, Quality, quantile
from effllm.data.filters.fineweb import FineWeb
from effllm.data.filters.gopher_quality import GopherQuality
from effllm.data.filters.gopher_repetition import GopherRepetition
from effllm.data.filters.language import Language, LanguageModel
from effllm.data.filters.length import Length
from effllm.data.filters.perplexity import Perplexity
from effllm.data.filters.pii import PII, mask
from effllm.data.filters.uncontaminated import Uncontaminated
from effllm.data.filters.words import sentences, words

__all__ = [
    "Blocklist", "C4", "Filter", "FineWeb", "GopherQuality", "GopherRepetition", "KEEP", "Language", "LanguageModel", "Length",
    "LinearClassifier", "PII", "Perplexity", "Quality", "Uncontaminated", "Verdict", "judge_all", "keep", "mask", "quantile", "sentences", "words",
]
