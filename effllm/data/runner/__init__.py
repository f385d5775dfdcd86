"""Corpora on disk that need not fit in memory: worker processes over shards, restartable, with a manifest in which in = out + dropped."""

from effllm.data.runner.cutting import Substring, cut_corpus
from effllm.data.runner.deduping import FieldScore, dedup_corpus, length
from effllm.data.runner.filtering import filter_corpus
from effllm.data.runner.read import InputFile, Reading, Record, Skipped, records
from effllm.data.runner.reporting import render_run
from effllm.data.runner.selecting import select_corpus
from effllm.data.runner.semantic import D4, Semantic
from effllm.data.runner.shards import input_files, shards
from effllm.data.runner.stats import corpus_stats
from effllm.data.runner.write import FORMATS

__all__ = [
    "D4", "FORMATS", "FieldScore", "InputFile", "Reading", "Record", "Semantic", "Skipped", "Substring", "corpus_stats", "cut_corpus", "dedup_corpus", "filter_corpus", "input_files", "length",
    "records", "render_run", "select_corpus", "shards",
]
