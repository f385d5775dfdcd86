import json
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from effllm.data import TFDS, Embedded
from effllm.data import source as source_module


def test_embedded_holds_prose_and_library_without_tests():
    documents = list(Embedded().documents())
    ids = [document.id for document in documents]
    assert len(ids) == len(set(ids))
    assert {"lib/os.py", "lib/json/decoder.py", "topics/while"} <= set(ids)
    assert not [i for i in ids if {"test", "tests", "idle_test", "site-packages", "pydoc_data"} & set(i.split("/"))]
    assert all(document.text.strip() and b"\0" not in document.text for document in documents)
    assert documents == list(Embedded().documents()) and Embedded().stamp() == Embedded().stamp()
    assert Embedded() == Embedded() and hash(Embedded()) == hash(Embedded())


def test_embedded_says_when_topics_are_stripped(monkeypatch):
    whole = Embedded().stamp()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert any("pydoc_data.topics is missing" in note for note in Embedded().notes())
    assert {document.id.split("/")[0] for document in Embedded().documents()} == {"lib"}
    assert Embedded().stamp() != whole


def test_embedded_with_nothing_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr(source_module.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="use TextFiles"):
        list(Embedded().documents())


class Poems(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"verse": tfds.features.Text(), "year": tfds.features.Scalar(np.int64)})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(["one", "zwö", "", "four"]), "test": self._generate_examples(["five"])}

    def _generate_examples(self, verses):
        yield from ((number, {"verse": verse, "year": 1900}) for number, verse in enumerate(verses))


@pytest.fixture(scope="module")
def poems(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    Poems(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


def test_tfds_reads_a_prepared_field(poems, monkeypatch):
    source = TFDS("poems", field="verse", data_dir=str(poems))
    documents = list(source.documents())
    assert [d.text for d in documents] == [b"one", "zwö".encode(), b"four"]
    assert [d.id for d in documents] == [f"poems/1.2.0/train:{index}" for index in (0, 1, 3)]
    test = TFDS("poems:1.2.0", "test", "verse", str(poems))
    assert [d.text for d in test.documents()] == [b"five"] and test.stamp() != source.stamp()
    monkeypatch.setenv("TFDS_DATA_DIR", str(poems))
    assert list(TFDS("poems", field="verse").documents()) == documents


@pytest.mark.parametrize("options, error, complaint", [
    ({"name": "lm1b"}, FileNotFoundError, "lm1b is not prepared under"),
    ({"name": "poems:9.0.0"}, FileNotFoundError, "poems:9.0.0 is not prepared under"),
    ({"name": "poems"}, ValueError, "no field 'text'; it has verse, year"),
    ({"name": "poems", "field": "year"}, ValueError, "field 'year' holds int, not text"),
    ({"name": "poems", "field": "verse", "split": "dev"}, ValueError, "no split 'dev'; it has test, train"),
])
def test_tfds_refuses_in_one_line(poems, options, error, complaint):
    with pytest.raises(error, match=complaint) as caught:
        list(TFDS(**options, data_dir=str(poems)).documents())
    assert "\n" not in str(caught.value)


def test_tfds_other_formats_and_versions(poems, tmp_path):
    for version in ("1.0.0", "2.0.0"):
        folder = tmp_path / "poems" / version
        folder.mkdir(parents=True)
        for name in ("dataset_info.json", "features.json"):
            (folder / name).write_text((poems / "poems" / "1.2.0" / name).read_text())
    with pytest.raises(ValueError, match="ambiguous .*poems/1.0.0, poems/2.0.0"):
        TFDS("poems", field="verse", data_dir=str(tmp_path)).stamp()
    info = tmp_path / "poems" / "1.0.0" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="stored as tfrecord.*prepare it again with file_format='array_record'"):
        list(TFDS("poems:1.0.0", field="verse", data_dir=str(tmp_path)).documents())
