"""Text to integers and back: bytes, a byte-level BPE trained on the corpus, or any tokenizer.json."""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

_FILE = "tokenizer.json"
_BYTES = {"effllm": "bytes"}
_END = "<|endoftext|>"


class Codec(abc.ABC):
    """A fitted tokenizer: `vocab_size`, `bos` and `eos` (ids that encode() never returns), encode, decode, save."""

    vocab_size: int
    bos: int
    eos: int

    def encode(self, text: bytes) -> np.ndarray:
        """The ids of `text`, shape (n,), int32, without bos and eos. Raises ValueError for text the codec cannot hold."""
        return self.encode_batch([text])[0]

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """encode() of each text, in parallel where the library allows."""

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bos and eos are dropped, and bytes that are not UTF-8 become U+FFFD."""

    @abc.abstractmethod
    def save(self, directory: str | Path) -> None:
        """Writes `directory`/tokenizer.json, which load_codec() reads."""

    @abc.abstractmethod
    def library_json(self) -> dict:
        """The same tokenizer as the content of a tokenizer.json of the `tokenizers` library, with the same ids."""


@dataclasses.dataclass(frozen=True)
class Tokenizer(abc.ABC):
    """How to obtain a codec from a corpus. Subclasses are frozen dataclasses of plain values."""

    @abc.abstractmethod
    def fit(self, documents: Iterator[bytes]) -> Codec:
        """The codec; `documents` are those of the training split, read only as far as needed."""

    def stamp(self) -> str:
        """A hex digest of whatever the fields refer to outside themselves, such as a file; empty where nothing is."""
        return ""


@dataclasses.dataclass(frozen=True)
class Bytes(Tokenizer):
    """One token a byte, vocabulary 256; byte 0, which no text holds, begins and ends a document."""

    def fit(self, documents: Iterator[bytes]) -> Codec:
        return _BytesCodec()


@dataclasses.dataclass(frozen=True)
class BPE(Tokenizer):
    """Byte-level BPE trained on the training documents; id 0 is <|endoftext|>, which begins and ends a document.

    vocab_size counts <|endoftext|> and the 256 bytes; training reads documents until `training_bytes` are reached. A small
    corpus may have fewer merges to learn, and then the codec's vocab_size is smaller. Raises ValueError below 257.
    """

    vocab_size: int = 2048
    training_bytes: int = 50_000_000

    def __post_init__(self):
        if self.vocab_size < 257:
            raise ValueError(f"tokenizer.vocab_size={self.vocab_size}: BPE needs at least 257 (256 bytes and {_END})")
        if self.training_bytes < 1:
            raise ValueError(f"tokenizer.training_bytes={self.training_bytes}: give a positive number")

    def fit(self, documents: Iterator[bytes]) -> Codec:
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers, trainers

        library = Library(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size, special_tokens=[_END], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        library.train_from_iterator((_text(text) for text in _up_to(documents, self.training_bytes)), trainer)
        return _LibraryCodec(library, _END)


@dataclasses.dataclass(frozen=True)
class TokenizerFile(Tokenizer):
    """A tokenizer.json of the `tokenizers` library; its token `start` begins a document (None: `end` does) and `end` ends it.

    Truncation, padding and the adding of special tokens that the file may ask for are switched off. Raises FileNotFoundError,
    or ValueError for a file that is no tokenizer or lacks `end` or `start`; the codec refuses a text that it would give one of these two.
    """

    path: str
    end: str = _END
    start: str | None = None

    def fit(self, documents: Iterator[bytes]) -> Codec:
        return _LibraryCodec(_read_library(self._file()), self.end, self.start)

    def stamp(self) -> str:
        return hashlib.sha256(self._file().read_bytes()).hexdigest()

    def _file(self) -> Path:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{self.path} is not a file: tokenizer.path names a tokenizer.json")
        return path


def load_codec(directory: str | Path) -> Codec:
    """The codec that save() wrote into `directory`. Raises FileNotFoundError or ValueError naming the file."""
    path = Path(directory, _FILE)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: a prepared data set or a run directory holds it")
    try:
        saved = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged (not JSON): restore it, or prepare the data again") from error
    if saved == _BYTES:
        return _BytesCodec()
    if "end" not in saved or "tokenizer" not in saved:
        raise ValueError(f"{path} was not written by effllm: pass TokenizerFile(path) as data.tokenizer instead")
    from tokenizers import Tokenizer as Library

    return _LibraryCodec(Library.from_str(json.dumps(saved["tokenizer"])), saved["end"], saved.get("start"))


class _BytesCodec(Codec):
    vocab_size, bos, eos = 256, 0, 0

    def encode_batch(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        for text in texts:
            if b"\0" in text:
                raise ValueError("the text holds a NUL byte, which Bytes() keeps for document ends: remove it or use BPE()")
        return [np.frombuffer(text, np.uint8).astype(np.int32) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(int(i) for i in ids if int(i) != self.eos).decode(errors="replace")

    def save(self, directory: str | Path) -> None:
        Path(directory, _FILE).write_text(json.dumps(_BYTES))

    def library_json(self) -> dict:
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers

        # The library writes a byte as a letter: printable ones as themselves, the others from U+0100 on, in order.
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [b for b in range(256) if b not in printable]
        letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
        library = Library(models.BPE({letters[b]: b for b in range(256)}, []))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.decoder = decoders.ByteLevel()
        return json.loads(library.to_str())


class _LibraryCodec(Codec):
    def __init__(self, library, end: str, start: str | None = None):
        self._library, self._end, self._start = library, end, start
        library.no_truncation()
        library.no_padding()
        library.encode_special_tokens = True
        self.eos = _id_of(library, "end", end)
        self.bos = self.eos if start is None else _id_of(library, "start", start)
        self.vocab_size = 1 + max(library.get_vocab(with_added_tokens=True).values())

    def encode_batch(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        encodings = self._library.encode_batch_fast([_text(text) for text in texts], add_special_tokens=False)
        found = [np.array(encoding.ids, np.int32) for encoding in encodings]
        for ids in found:
            if (taken := ids[(ids == self.bos) | (ids == self.eos)]).size:
                raise ValueError(
                    f"the text holds {self._library.id_to_token(int(taken[0]))!r}, which this tokenizer reads as the token that begins or ends a document: "
                    "remove it from the text, or set tokenizer.end and tokenizer.start to tokens that no text gives")
        return found

    def decode(self, ids: Iterable[int]) -> str:
        return self._library.decode([int(i) for i in ids if int(i) not in (self.bos, self.eos)], skip_special_tokens=True)

    def save(self, directory: str | Path) -> None:
        saved = {"end": self._end, "start": self._start, "tokenizer": self.library_json()}
        Path(directory, _FILE).write_text(json.dumps(saved))

    def library_json(self) -> dict:
        return json.loads(self._library.to_str())


def _read_library(path: Path):
    from tokenizers import Tokenizer as Library

    try:
        return Library.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every unreadable file
        raise ValueError(f"{path} is no tokenizer.json that `tokenizers` can read: {error}") from error


def _id_of(library, field: str, token: str) -> int:
    found = library.token_to_id(token)
    if found is None:
        special = [token.content for token in library.get_added_tokens_decoder().values()]
        likely = ", ".join(special[:8]) if special else "none of its tokens is special"
        raise ValueError(f"the tokenizer has no {field} token {token!r}: set tokenizer.{field} to one it has ({likely})")
    return found


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not UTF-8 (byte {error.start}): convert it, or use Bytes()") from error


def _up_to(documents: Iterator[bytes], limit: int) -> Iterator[bytes]:
    read = 0
    for text in documents:
        yield text
        read += len(text)
        if read >= limit:
            return
