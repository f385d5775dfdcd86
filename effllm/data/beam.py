"""The same filters and deduplication as Apache Beam transforms, for Dataflow, Flink or Spark; pip install "effllm[beam]".

    with beam.Pipeline(options=...) as pipeline:
        documents = pipeline | beam.Create(records)                    # effllm.data.runner.Record, ids all different
        kept, dropped = documents | Filtered((GopherQuality(), C4()))
        unique = kept | Deduplicated(Near(threshold=0.8))

Nothing here decides anything: the rules, keys, pairs, verification and clusters are the functions that the single machine uses.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np

from effllm.data.dedup.clusters import best_of_each, components
from effllm.data.dedup.keyed import Keyed
from effllm.data.dedup.lsh import group_pairs
from effllm.data.filters.base import Filter, judge_all
from effllm.data.runner.deduping import length
from effllm.data.runner.read import Record

KEPT, DROPPED = "kept", "dropped"


class Filtered(beam.PTransform):
    """Records to (kept records, cleaned; (reason, record) of those dropped). Metrics count both, under the namespace "effllm"."""

    def __init__(self, filters: Sequence[Filter]):
        super().__init__()
        self._filters = tuple(filters)

    def expand(self, records):
        return records | beam.ParDo(_Judge(self._filters)).with_outputs(DROPPED, main=KEPT)


class _Judge(beam.DoFn):
    def __init__(self, filters: tuple[Filter, ...]):
        self._filters = filters

    def process(self, record: Record) -> Iterator:
        verdict, text = judge_all(record.text, self._filters)
        beam.metrics.Metrics.counter("effllm", verdict.reason or KEPT).inc()
        if verdict.keep:
            yield Record(record.id, text, record.rest)
        else:
            yield beam.pvalue.TaggedOutput(DROPPED, (verdict.reason, record))


class Deduplicated(beam.PTransform):
    """Records to one record of every cluster of duplicates: the highest score, of equal ones the smallest id.

    Keys are grouped, candidates joined with their evidence, and verified pairs gathered in one place for the clusters: those, not the
    documents, must fit there (some 100 bytes a pair). Ids must differ; records of one id are taken for one document.
    """

    def __init__(self, method: Keyed, score: Callable[[Record], float] = length):
        super().__init__()
        self._method, self._score = method, score

    def expand(self, records):
        method, score = self._method, self._score
        by_id = records | "by id" >> beam.Map(lambda record: (record.id, record))
        pairs = (
            records
            | "keys" >> beam.FlatMap(_keys, method)
            | "same key" >> beam.GroupByKey()
            | "pairs" >> beam.FlatMap(_pairs)
            | "each once" >> beam.Distinct()
        )
        evidence = records | "evidence" >> beam.Map(lambda record: (record.id, (score(record), method.evidence([record.text.encode()])[0])))
        first = pairs | "by first" >> beam.Map(lambda pair: (pair[0], pair[1]))
        half = {"other": first, "evidence": evidence} | "join first" >> beam.CoGroupByKey() | "carry" >> beam.FlatMap(_carry)
        verified = {"half": half, "evidence": evidence} | "join second" >> beam.CoGroupByKey() | "verify" >> beam.FlatMap(_verified, method)
        losers = verified | "in one place" >> beam.combiners.ToList() | "clusters" >> beam.FlatMap(_losers) | "losing ids" >> beam.Map(lambda i: (i, None))
        joined = {"record": by_id, "lost": losers} | "join losers" >> beam.CoGroupByKey()
        return joined | "winners" >> beam.FlatMap(lambda item: [] if item[1]["lost"] else item[1]["record"][:1])


def _keys(record: Record, method: Keyed) -> Iterator[tuple[bytes, str]]:
    """Band and key as bytes, because Beam's integers are signed."""
    key_db, used_d = method.keys([record.text.encode()])
    if used_d[0]:
        yield from ((band.to_bytes(2, "big") + int(key).to_bytes(8, "big"), record.id) for band, key in enumerate(key_db[0]))


def _pairs(item: tuple[bytes, Iterable[str]]) -> Iterator[tuple[str, str]]:
    ids = sorted(set(item[1]))
    yield from ((ids[i], ids[j]) for i, j in group_pairs(np.zeros(len(ids), np.uint64)).tolist())


def _carry(item) -> Iterator[tuple[str, tuple[str, tuple]]]:
    """From a document and those it is paired with: to each of those, the document's evidence."""
    name, joined = item
    for other in joined["other"]:
        yield other, (name, joined["evidence"][0])


def _verified(item, method: Keyed) -> Iterator[tuple[str, float, str, float]]:
    name, joined = item
    for other, (other_score, other_evidence) in joined["half"]:
        own_score, own_evidence = joined["evidence"][0]
        if method.similar(other_evidence, own_evidence) is not None:
            yield other, other_score, name, own_score


def _losers(pairs: list[tuple[str, float, str, float]]) -> Iterator[str]:
    score = {name: value for a, x, b, y in pairs for name, value in ((a, x), (b, y))}
    names = sorted(score)
    place = {name: i for i, name in enumerate(names)}
    pair_p2 = np.array([(place[a], place[b]) for a, _, b, _ in pairs], np.int64).reshape(-1, 2)
    keep_d = best_of_each(components(len(names), pair_p2), np.array([score[name] for name in names]))
    yield from (name for name, keep in zip(names, keep_d) if not keep)
