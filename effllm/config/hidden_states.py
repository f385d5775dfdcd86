"""A trained run as an embedding of documents."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from effllm.config.files import read_config
from effllm.config.program import assemble, parameters
from effllm.data import load_codec
from effllm.data.dedup.embedding import Embedding
from effllm.shard import MeshShape


@dataclass(frozen=True)
class HiddenStates(Embedding):
    """The mean of the last hidden states of the run in the folder `run` over a text's first data.sequence_length tokens, the begin token among them."""

    run: str

    def function(self, total: np.ndarray | None) -> Callable[[str], np.ndarray]:
        experiment = read_config(self.run)
        alone = dataclasses.replace(experiment, mesh=MeshShape(1, 1, 1), accumulate=1, select=None)
        program, codec, length = assemble(alone, jax.local_devices()[:1]), load_codec(self.run), experiment.data.sequence_length
        _, params = parameters(self.run, program)

        @jax.jit
        def mean(params, token_bt, segment_bt):
            x_btd, _ = experiment.model.apply({"params": params}, token_bt, segment_ids=segment_bt, method="features")
            return jnp.sum(x_btd * segment_bt[..., None], axis=1)[0].astype(jnp.float32) / jnp.sum(segment_bt)

        def embed(text: str) -> np.ndarray:
            ids = np.concatenate([[codec.bos], codec.encode(text.encode())])[:length]
            token_bt, segment_bt = np.zeros((2, 1, length), np.int32)
            token_bt[0, : len(ids)], segment_bt[0, : len(ids)] = ids, 1
            with jax.set_mesh(program.mesh):
                return np.asarray(mean(params, token_bt, segment_bt))

        return embed
