import json

import numpy as np
import pytest
import tokenizers

from effllm.data import BPE, Bytes, TokenizerFile, load_codec

CORPUS = [b"the cat sat on the mat", "schön, schöner; der Möwe die Möwe".encode(), b"x = [i for i in range(10)]\n\t\n"]


@pytest.fixture
def foreign(tmp_path):
    """A tokenizer.json that adds, cuts and pads unless told not to."""
    vocabulary = {"<s>": 0, "</s>": 1, "the": 2, "cat": 3, "?": 7}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.add_special_tokens(["<s>", "</s>"])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    library.enable_truncation(4)
    library.enable_padding(length=9)
    path = tmp_path / "foreign.json"
    library.save(str(path))
    return path


def test_bytes():
    codec = Bytes().fit(iter([]))
    assert (codec.vocab_size, codec.bos, codec.eos) == (256, 0, 0)
    ids = codec.encode("né".encode())
    assert ids.dtype == np.int32 and ids.tolist() == [110, 195, 169]
    assert codec.decode([0, *ids, 0]) == "né" and codec.decode([195]) == "\N{REPLACEMENT CHARACTER}"
    with pytest.raises(ValueError, match="NUL"):
        codec.encode(b"a\0b")


def test_bpe_learns_merges_and_keeps_its_end_token_out_of_text():
    codec = BPE(vocab_size=280).fit(iter(CORPUS * 5))
    assert codec.vocab_size == 280 and codec.bos == codec.eos == 0
    ids = codec.encode(b"the cat")
    assert ids.dtype == np.int32 and len(ids) < 7
    spelled = codec.encode(b"a<|endoftext|>b")
    assert 0 not in spelled and codec.decode(spelled) == "a<|endoftext|>b"
    assert codec.decode([0, *spelled, 0]) == "a<|endoftext|>b"
    with pytest.raises(ValueError, match="not UTF-8"):
        codec.encode(b"\xff")


def test_bpe_training_stops_at_its_cap():
    def documents():
        yield b"abab" * 10
        raise AssertionError("read past the cap")

    assert BPE(vocab_size=300, training_bytes=40).fit(documents()).vocab_size > 257


def test_bpe_arguments():
    with pytest.raises(ValueError, match="vocab_size=100"):
        BPE(100)
    with pytest.raises(ValueError, match="training_bytes=0"):
        BPE(training_bytes=0)


def test_foreign_file_neither_adds_nor_cuts_nor_pads(foreign, tmp_path):
    codec = TokenizerFile(str(foreign), end="</s>").fit(iter([]))
    assert codec.encode(b"the cat the cat the").tolist() == [2, 3, 2, 3, 2]
    assert codec.vocab_size == 8 and codec.eos == 1
    codec.save(tmp_path)
    assert load_codec(tmp_path).encode(b"the cat the cat the").tolist() == [2, 3, 2, 3, 2]


def test_a_start_that_is_not_the_end(foreign, tmp_path):
    TokenizerFile(str(foreign), end="</s>", start="<s>").fit(iter([])).save(tmp_path)
    codec = load_codec(tmp_path)
    assert (codec.bos, codec.eos) == (0, 1) and codec.decode([0, 2, 3, 1]) == codec.decode([2, 3])
    with pytest.raises(ValueError, match="no start token 'x': set tokenizer.start"):
        TokenizerFile(str(foreign), end="</s>", start="x").fit(iter([]))


def test_foreign_file_refusals(foreign, tmp_path):
    with pytest.raises(ValueError, match=r"no end token '<\|endoftext\|>'.*<s>, </s>"):
        TokenizerFile(str(foreign)).fit(iter([]))
    with pytest.raises(FileNotFoundError, match="none.json"):
        TokenizerFile(str(tmp_path / "none.json")).stamp()
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="bad.json is no tokenizer.json"):
        TokenizerFile(str(tmp_path / "bad.json")).fit(iter([]))


def test_a_text_that_would_end_its_document_is_refused(foreign, tmp_path):
    codec = TokenizerFile(str(foreign), end="cat").fit(iter([]))
    assert codec.encode(b"the the").tolist() == [2, 2]
    with pytest.raises(ValueError, match="text holds 'cat'.*ends a document"):
        codec.encode_batch([b"the", b"the cat"])
    pieces = [("<unk>", -9.0), ("</s>", 0.0), *((letter, -2.0) for letter in "ab</s>")]
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 0))
    unigram.add_special_tokens(["</s>"])
    unigram.save(str(tmp_path / "unigram.json"))
    with pytest.raises(ValueError, match="text holds '</s>'"):
        TokenizerFile(str(tmp_path / "unigram.json"), end="</s>").fit(iter([])).encode(b"a</s>b")


def test_stamp_follows_the_file(foreign):
    before = TokenizerFile(str(foreign)).stamp()
    foreign.write_text(foreign.read_text() + " ")
    assert TokenizerFile(str(foreign)).stamp() != before and Bytes().stamp() == BPE().stamp() == ""


@pytest.mark.parametrize("content, complaint", [
    ("{", "damaged"), (json.dumps({"version": "1.0", "model": {}}), "not written by effllm"), ("[]", "not written by effllm")])
def test_load_codec_refusals(tmp_path, content, complaint):
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        load_codec(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=complaint):
        load_codec(tmp_path)
