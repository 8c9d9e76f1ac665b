"""What a user of MLServer would write: runtimes by its guide to custom ones, with codecs of its guide to types."""

# mypy: allow-subclassing-any

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving_run.wire import load, pack_scores, scores_of_rows, unpack


class Rows(MLModel):
    """Tensors of rows in, a tensor of scores out; MLServer's adaptive batching joins requests along the rows."""

    async def load(self) -> bool:
        self._version = load(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = {each.name: self.decode(each, default_codec=NumpyCodec) for each in payload.inputs}
        score_NT = np.ascontiguousarray(scores_of_rows(self._version, rows).T)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", score_NT)])


class Broadcast(MLModel):
    """The whole request as bytes in base64, which JSON carries faster than numbers; scores go out the same way."""

    async def load(self) -> bool:
        self._version = load(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (content,) = Base64Codec.decode_input(payload.inputs[0])
        scores = pack_scores(self._version.score(unpack(content)))
        return InferenceResponse(model_name=self.name, outputs=[Base64Codec.encode_output("scores", [scores])])
