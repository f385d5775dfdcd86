"""The laws of what a step reads: every public curriculum of effllm.data finds itself here."""

import inspect
import itertools
import json
from collections import Counter

import jax
import numpy as np
import pytest

from effllm import data
from effllm.config import Experiment, from_json, override, to_json
from effllm.data import Curriculum, Data, Mixture, TextFiles, curriculum, prepare
from effllm.data.curriculum import Competence, Paced, SequenceWarmup, Stages, StepPacing

SEED, BATCH, STEPS, LENGTH = 3, 6, 40, 16
ARGUMENTS = {
    "Stages": {"starts": (0.0, 0.5), "weights": ((3.0, 1.0), (1.0, 9.0)), "blend": True}, "LengthBuckets": {"shortest": 4},
    "SequenceWarmup": {"minimum": 4, "multiple": 4, "steps": 20}, "Paced": {"pacing": StepPacing(start=0.2, duration=0.3)},
}  # fmt: skip


def subjects():
    rooms = itertools.chain(((data, n) for n in data.__all__), ((curriculum, n) for n in curriculum.__all__))
    found = {getattr(room, name) for room, name in rooms if inspect.isclass(getattr(room, name)) and issubclass(getattr(room, name), Curriculum)}
    plain = [c(**ARGUMENTS.get(c.__name__, {})) for c in sorted(found, key=lambda c: c.__name__) if not inspect.isabstract(c)]
    return [*plain, SequenceWarmup(4, 20, 4, over=Paced(pacing=Competence(duration=1.0), hardest_first=True))]


SUBJECTS = subjects()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root, random = tmp_path_factory.mktemp("curricula"), np.random.default_rng(0)
    for domain, count in (("a", 60), ("b", 25)):
        (root / domain).mkdir()
        for number in range(count):
            text = bytes(random.integers(97, 123, random.integers(1, 90)).astype(np.uint8)).decode()
            (root / domain / f"{number}.txt").write_text(f"{domain} {number} {text}")
    source = Mixture((TextFiles(str(root / "a")), TextFiles(str(root / "b"))))
    return prepare(Data(source=source, sequence_length=LENGTH, batch_size=BATCH, held_out=0.2, cache=str(root / "cache")))


def read(dataset, subject, count=STEPS, **options):
    with dataset.train_batches(seed=SEED, batch_size=BATCH, curriculum=subject, steps=STEPS, **options) as batches:
        return list(itertools.islice(batches, count)), batches.state()


def equal(left, right):
    return all(np.array_equal(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in b)


def test_there_are_subjects():
    assert len(SUBJECTS) >= 8 and {"Shuffled", "Paced", "SequenceWarmup", "LengthBuckets", "Stages", "Tempered", "UniMax"} <= {type(s).__name__ for s in SUBJECTS}


@pytest.mark.parametrize("subject", SUBJECTS, ids=repr)
def test_one_line_of_the_command_line_is_the_value(subject):
    text = repr(subject).replace(" ", "")
    experiment = override(Experiment(), f"data.curriculum={text}")
    assert experiment.data.curriculum == subject and from_json(json.loads(json.dumps(to_json(experiment)))) == experiment


@pytest.mark.parametrize("subject", SUBJECTS, ids=repr)
def test_any_number_of_processes_and_any_start_read_the_same(dataset, subject):
    whole, state = read(dataset, subject)
    for processes in (2, 3):
        share = BATCH // processes
        parts = [read(dataset, subject, rows=range(share * p, share * (p + 1)))[0] for p in range(processes)]
        assert equal([{name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts)], whole)
    for start in (1, STEPS // 2 + 1):
        again, ended = read(dataset, subject, count=STEPS - start, start=start)
        assert equal(again, whole[start:]) and ended == state
    assert json.loads(json.dumps(state)) == state


@pytest.mark.parametrize("subject", SUBJECTS, ids=repr)
def test_shapes_are_few_and_sizes_bounded(dataset, subject):
    batches, _ = read(dataset, subject)
    shapes = {batch["tokens"].shape for batch in batches}
    assert len(shapes) <= 4 and all(rows * length <= BATCH * LENGTH and rows % BATCH == 0 for rows, length in shapes)
    assert all({array.shape for array in batch.values()} == {batch["tokens"].shape} for batch in batches)


@pytest.mark.parametrize("subject", SUBJECTS, ids=repr)
def test_what_is_read_is_the_training_text(dataset, subject):
    """Every run of scored pairs stands in a training document, and its positions begin at 0 with each document's piece."""
    streams = [[dataset.codec.bos, *dataset.codec.encode(d.text).tolist(), dataset.codec.eos] for d in dataset.documents("train")]
    text = b"|".join(np.array(stream, "<u2").tobytes() for stream in streams)
    for batch in read(dataset, subject, count=12)[0]:
        for row in range(len(batch["tokens"])):
            for segment in np.unique(batch["segment_ids"][row][batch["segment_ids"][row] > 0]):
                at = np.flatnonzero((batch["segment_ids"][row] == segment) & (batch["weights"][row] == 1))
                if len(at):
                    piece = np.r_[batch["tokens"][row, at], batch["targets"][row, at[-1]]].astype("<u2").tobytes()
                    assert piece in text and np.array_equal(batch["positions"][row, at], np.arange(len(at)))


@pytest.mark.parametrize("subject", SUBJECTS, ids=repr)
def test_another_order_is_refused_in_one_line_or_is_the_same(dataset, subject):
    _, state = read(dataset, subject, count=3)

    def batches(seed=SEED, batch_size=BATCH, steps=STEPS, subject=subject):
        return dataset.train_batches(seed=seed, batch_size=batch_size, curriculum=subject, steps=steps, start=3)

    with batches() as same:
        assert same.check_state(state) == 3
    for change in ({"seed": 4}, {"batch_size": 3}, {"steps": 2 * STEPS}):
        with batches(**change) as other:
            try:
                other.check_state(state)
            except ValueError as error:
                assert "\n" not in str(error)
            else:
                assert list(change) == ["steps"] and equal([next(other)], read(dataset, subject, count=1, start=3)[0])


def test_workers_change_nothing(dataset):
    subject = SUBJECTS[-1]
    assert equal(read(dataset, subject, count=5, workers=1)[0], read(dataset, subject, count=5)[0])


def rows_of(batches):
    return [row.tobytes() for batch in batches for row in batch["tokens"]]


def stored(dataset, examples=None):
    rows = rows_of(dataset.held_out_batches(batch_size=1, split="train"))
    return sorted(rows if examples is None else [rows[i] for i in examples])


def test_a_paced_run_reads_every_record_once_an_epoch_when_it_has_the_whole(dataset):
    subject = Paced(pacing=StepPacing(start=0.2, duration=0.25))
    count = dataset.records("train")
    batches, _ = read(dataset, subject, count=11 + count // BATCH)
    assert len(set(rows_of(batches[:10]))) <= -(-count // 5)
    assert sorted(rows_of(batches[10:])[:count]) == stored(dataset)
    backwards = read(dataset, Paced(pacing=StepPacing(start=0.2, duration=0.25), hardest_first=True), count=11 + count // BATCH)[0]
    assert not set(rows_of(batches[:10])) & set(rows_of(backwards[:10])) and sorted(rows_of(backwards[10:])[:count]) == stored(dataset)


def test_a_mixture_has_its_shares_and_reads_each_domain_once_an_epoch_of_its_own(dataset):
    subject = Stages(starts=(0.0, 0.5), weights=((3.0, 1.0), (0.0, 1.0)))
    batches, _ = read(dataset, subject)
    domains = {name: set(stored(dataset, examples)) for name, examples in dataset.domains().items()}
    assert set(domains) == {"0", "1"} and not domains["0"] & domains["1"]
    share = [np.mean([row in domains["1"] for row in rows_of([batch])]) for batch in batches]
    assert np.mean(share[:20]) == pytest.approx(0.25, abs=0.02) and set(share[20:]) == {1.0} and set(share[:20]) <= {1 / 6, 2 / 6}
    for name, examples in domains.items():
        seen = [row for row in rows_of(batches) if row in examples]
        for number in (BATCH, len(examples) // 2, len(seen)):  # each read ⌊n/N⌋ or one time more
            assert {Counter(seen[:number])[row] for row in examples} <= {number // len(examples), number // len(examples) + 1}
    longer = dataset.train_batches(seed=SEED, batch_size=BATCH, curriculum=subject, steps=STEPS, start=STEPS)
    with longer:
        assert all(row in domains["1"] for row in rows_of([next(longer)]))


def test_buckets_read_every_piece_once_a_cycle_and_put_documents_together_again(dataset):
    documents = list(curriculum.whole_documents(dataset))
    encoded = [[dataset.codec.bos, *dataset.codec.encode(d.text).tolist(), dataset.codec.eos] for d in dataset.documents("train")]
    assert [d.tolist() for d in documents] == encoded
    subject = curriculum.LengthBuckets(shortest=4)
    plan = subject.plan(dataset, seed=SEED, batch_size=BATCH, steps=STEPS)
    order = plan.read._order
    seen = [row for step in range(order.cycle) for row in rows_of([plan.read(step, range(BATCH))])]
    expected = [np.array(d[at : at + n], np.int32).tobytes() for d in encoded for at, n in pieces(len(d) - 1)]
    left = sum(order.size_of[n] % (BATCH * LENGTH // n) for n in order.size_of)
    assert len(seen) == len(expected) - left and not (Counter(seen) - Counter(expected))
    first = plan.read(0, range(BATCH))
    assert (first["weights"] == 1).all() and (first["segment_ids"] == 1).all()


def pieces(length):
    sizes = curriculum.decompose(length, LENGTH, 4)
    return list(zip(np.cumsum([0, *sizes]).tolist(), sizes))




@pytest.mark.parametrize("subject,words", [
    (Stages(starts=(0.0,), weights=((1.0, 1.0, 1.0),)), "weighs 3 domains, but the training documents have 2 .'0', '1'"),
    (curriculum.LengthBuckets(shortest=12), "powers of two"), (curriculum.LengthBuckets(shortest=32), "lies below"),
    (SequenceWarmup(minimum=64), "minimum"), (Paced(curriculum.ByScores(__file__.replace(".py", ".npy"))), "No such file"),
])
def test_refusals(dataset, subject, words):
    with pytest.raises((ValueError, OSError), match=words) as caught:
        subject.plan(dataset, seed=0, batch_size=BATCH, steps=STEPS)
    assert "\n" not in str(caught.value)
    for needs_steps in (Paced(), curriculum.UniMax()):
        with pytest.raises(ValueError, match="steps=0"):
            needs_steps.plan(dataset, seed=0, batch_size=BATCH, steps=0)


RANKINGS = [r for r in (getattr(curriculum, n) for n in curriculum.__all__) if inspect.isclass(r) and issubclass(r, curriculum.Ranking) and not inspect.isabstract(r)]


@pytest.mark.parametrize("ranking", RANKINGS, ids=lambda r: r.__name__)
def test_a_ranking_is_one_finite_number_a_record(dataset, ranking, tmp_path):
    np.save(tmp_path / "scores.npy", np.arange(dataset.records("train"))[::-1])
    (tmp_path / "model.txt").write_text("a model of some text")
    given = {"ByScores": {"path": str(tmp_path / "scores.npy")}, "ByPerplexity": {"model": str(tmp_path / "model.txt")}}
    score_n = ranking(**given.get(ranking.__name__, {}))(dataset)
    assert score_n.shape == (dataset.records("train"),) and np.isfinite(score_n).all() and len(np.unique(score_n)) > 3
    if ranking is curriculum.ByRarity:
        tokens = np.concatenate([b["tokens"] for b in dataset.held_out_batches(batch_size=1, split="train")])
        weights = np.concatenate([b["weights"] for b in dataset.held_out_batches(batch_size=1, split="train")])
        logp = curriculum.unigram(tokens, weights, 256)
        assert score_n == pytest.approx(np.asarray(jax.jit(curriculum.rarity)(tokens, weights, logp)), rel=1e-4)
