"""Text to batches: sources, tokenizers, packing, preparation and an order that is a function of (seed, step).

    data = Data(source=TextFiles("books"), tokenizer=BPE(4096), sequence_length=512, batch_size=32)
    dataset = prepare(data)
    for batch in dataset.train_batches(seed=0, batch_size=data.batch_size): ...
"""

from effllm.data.dataset import Batches, Dataset
from effllm.data.dedup.embedding import Embedding, HashedNgrams
from effllm.data.dedup.keyed import Exact, Near, NearBits
from effllm.data.files import TextFiles
from effllm.data.filters import (
    C4, PII, Blocklist, Filter, FineWeb, GopherQuality, GopherRepetition, Language, Length, Perplexity, Quality, Uncontaminated,
)
from effllm.data.ngram import ngram_bits_per_byte
from effllm.data.ngram_model import NgramModel
from effllm.data.order import Curriculum, Plan, Shuffled
from effllm.data.packing import pack, unpack
from effllm.data.preparation import prepare
from effllm.data.runner.cutting import Substring
from effllm.data.runner.semantic import D4, Semantic
from effllm.data.runner.shares import FieldShare, PerplexityShare, RandomShare, TowardTarget
from effllm.data.source import TFDS, Document, Embedded, Mixture, Source
from effllm.data.spec import Data
from effllm.data.tokenizer import BPE, Bytes, Codec, Tokenizer, TokenizerFile, load_codec

__all__ = [
    "BPE", "Batches", "Blocklist", "Bytes", "C4", "Codec", "Curriculum", "D4", "Data", "Dataset", "Document", "Embedded", "Embedding", "Exact",
    "FieldShare", "Filter", "FineWeb", "GopherQuality", "GopherRepetition", "HashedNgrams", "Language", "Length", "Mixture", "Near", "NearBits",
    "NgramModel", "PII", "Perplexity", "PerplexityShare", "Plan", "Quality", "RandomShare", "Semantic", "Shuffled", "Source", "Substring", "TFDS", "TextFiles",
    "Tokenizer", "TokenizerFile", "TowardTarget", "Uncontaminated", "load_codec", "ngram_bits_per_byte", "pack",
    "prepare", "unpack",
]
