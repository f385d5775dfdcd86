"""Where documents come from: the library every Python carries, text files (files.py), prepared TFDS data sets."""

import abc
import dataclasses
import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Document:
    """One document: `id` is stable between runs and decides its split; `text` is UTF-8 without NUL bytes; `domain` names its part of a Mixture."""

    id: str
    text: bytes
    domain: str = ""


@dataclasses.dataclass(frozen=True)
class Source(abc.ABC):
    """A corpus. Subclasses are frozen dataclasses of plain values, so that a source compares, hashes and serialises."""

    @abc.abstractmethod
    def documents(self) -> Iterator[Document]:
        """Every non-empty document, in an order that does not change while the content does not; those of one domain one after another."""

    @abc.abstractmethod
    def stamp(self) -> str:
        """A hex digest, cheap to compute, that changes when the content does."""

    def notes(self) -> tuple[str, ...]:
        """What a reader of the manifest should know about this corpus, one sentence each."""
        return ()


@dataclasses.dataclass(frozen=True)
class Mixture(Source):
    """Several corpora, each a domain that a curriculum can weigh (Stages, Tempered, UniMax); no record holds text of two of them.

    Domains are named by their place, "0", "1", …, which also begins their documents' ids. Raises ValueError without a source.
    """

    sources: tuple[Source, ...]

    def __post_init__(self):
        if not self.sources:
            raise ValueError("Mixture.sources=(): give at least one source")

    def documents(self) -> Iterator[Document]:
        for place, source in enumerate(self.sources):
            for document in source.documents():
                yield Document(f"{place}/{document.id}", document.text, str(place))

    def stamp(self) -> str:
        return hashlib.sha256("\n".join(source.stamp() for source in self.sources).encode()).hexdigest()

    def notes(self) -> tuple[str, ...]:
        return tuple(note for source in self.sources for note in source.notes())


_NOT_SOURCE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "ensurepip", "pydoc_data"}


@dataclasses.dataclass(frozen=True)
class Embedded(Source):
    """Text that every Python carries: the language reference in `pydoc_data.topics` and the standard library's source.

    Tests, installed packages and build configuration are left out; what remains is 12 to 13 MB and differs between Python
    versions. Raises FileNotFoundError where a distribution ships neither.
    """

    def documents(self) -> Iterator[Document]:
        found = False
        for document in (*_topics(), *_library()):
            found = True
            yield document
        if not found:
            raise FileNotFoundError(
                "this Python carries neither pydoc_data.topics nor its library's source: use TextFiles(path) as data.source")

    def stamp(self) -> str:
        digest = hashlib.sha256(platform.python_version().encode())
        for document in self.documents():
            digest.update(f"{document.id}\0{len(document.text)}\0".encode())
            digest.update(document.text)
        return digest.hexdigest()

    def notes(self) -> tuple[str, ...]:
        notes = (f"the standard library of Python {platform.python_version()} and its language reference",)
        return notes if _topics() else (*notes, "pydoc_data.topics is missing: only the library's source is used")


def _topics() -> list[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return []
    return [Document(f"topics/{name}", text.encode()) for name, text in sorted(topics.items()) if text.strip()]


def _library() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _NOT_SOURCE and not name.startswith("config-"))
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                path = Path(folder, name)
                text = path.read_bytes()
                if text.strip() and _is_text(text):
                    yield Document(f"lib/{path.relative_to(root).as_posix()}", text)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


@dataclasses.dataclass(frozen=True)
class TFDS(Source):
    """A text field of a TFDS data set that is already prepared as array_record; read without TensorFlow and without network.

    name: "name", "name/config" or either with ":version"; data_dir: the TFDS root, by default $TFDS_DATA_DIR or
    ~/tensorflow_datasets. Records whose text is empty are skipped. Raises FileNotFoundError where nothing is prepared, and
    ValueError for another file format, a missing split, a field that is missing or holds no text, or (naming the record) a text that is
    binary or not UTF-8.
    """

    name: str
    split: str = "train"
    field: str = "text"
    data_dir: str | None = None

    def documents(self) -> Iterator[Document]:
        for name, text in self.texts():
            if not _is_text(text):
                raise ValueError(f"TFDS {name} field {self.field!r} is binary or not UTF-8: only text can be trained on")
            yield Document(name, text)

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """(id, text) of every record that is not blank, as stored, whatever its bytes are."""
        builder = self._builder()
        records = self._records(builder)
        prefix = f"{builder.info.full_name}/{self.split}"
        for index in range(len(records)):
            text = records[index][self.field]
            if not isinstance(text, (str, bytes)):
                raise ValueError(f"TFDS {self.name}: field {self.field!r} holds {type(text).__name__}, not text")
            if text.strip():
                yield f"{prefix}:{index}", text if isinstance(text, bytes) else text.encode()

    def stamp(self) -> str:
        info = self._builder().info
        sizes = [(name, split.num_examples, split.num_bytes) for name, split in sorted(info.splits.items())]
        return hashlib.sha256(repr((info.full_name, self.split, sizes)).encode()).hexdigest()

    def _builder(self):
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self._directory())

    def _directory(self) -> Path:
        root = Path(self.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
        name, _, version = self.name.partition(":")
        prepared = sorted(path.parent for path in (root / name).glob("**/dataset_info.json"))
        found = [path for path in prepared if not version or path.name == version]
        if not found:
            raise FileNotFoundError(
                f"TFDS {self.name} is not prepared under {root}: prepare it where there is network, with "
                f"tfds.builder({name!r}, file_format='array_record').download_and_prepare(), or set data_dir")
        if len(found) > 1:
            choices = ", ".join(path.relative_to(root).as_posix() for path in found)
            raise ValueError(f"TFDS {self.name} is ambiguous under {root} ({choices}): name it as 'name/config:version'")
        return found[0]

    def _records(self, builder):
        if self.field not in builder.info.features:
            raise ValueError(f"TFDS {self.name} has no field {self.field!r}; it has {', '.join(sorted(builder.info.features))}")
        if self.split.partition("[")[0] not in builder.info.splits:
            raise ValueError(f"TFDS {self.name} has no split {self.split!r}; it has {', '.join(sorted(builder.info.splits))}")
        try:
            return builder.as_data_source(self.split)
        except (NotImplementedError, ValueError) as error:
            stored = builder.info.file_format.value if builder.info.file_format else "an unknown format"
            raise ValueError(
                f"TFDS {self.name} is stored as {stored}, which cannot be read by index without TensorFlow: "
                "prepare it again with file_format='array_record'") from error
