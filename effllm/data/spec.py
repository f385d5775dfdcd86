"""The data part of an experiment's configuration."""

import dataclasses

from effllm.data.order import Curriculum, Shuffled
from effllm.data.source import Embedded, Source
from effllm.data.tokenizer import Bytes, Tokenizer


@dataclasses.dataclass(frozen=True)
class Data:
    """What is trained on, and how it is cut.

    sequence_length: predicted tokens a record; batch_size: records of the global batch; held_out: expected share of documents
    kept for evaluation; curriculum: what each step reads (Shuffled, or one of effllm.data.curriculum); workers: Grain processes that prepare batches (0: threads of this process); cache: where prepared data
    lives, by default $EFFLLM_CACHE or ~/.cache/effllm. Raises ValueError naming the field that is out of range.
    """

    source: Source = Embedded()
    tokenizer: Tokenizer = Bytes()
    sequence_length: int = 256
    batch_size: int = 16
    held_out: float = 0.05
    curriculum: Curriculum = Shuffled()
    workers: int = 0
    cache: str | None = None

    def __post_init__(self):
        for name in ("sequence_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: give a positive number")
        if not 0 < self.held_out < 1:
            raise ValueError(f"data.held_out={self.held_out}: give a share between 0 and 1, both excluded")
        if self.workers < 0:
            raise ValueError(f"data.workers={self.workers}: give 0 for threads of this process, or a number of processes")
