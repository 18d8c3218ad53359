"""BentoML around the network whose weights `SERVED_WEIGHTS` names: batches of up to 32."""

from typing import Annotated

import bentoml
import numpy as np
import torch
from bentoml.validators import DType

from benchmarks.served import bare_network

Windows = Annotated[np.ndarray, DType("float32")]


@bentoml.service(workers=1)
class Lstm:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.network = bare_network()

    @bentoml.api(route="/invocations", batchable=True, max_batch_size=32, max_latency_ms=1000)
    def invocations(self, instances: Windows) -> Windows:
        with torch.inference_mode():
            return self.network(torch.from_numpy(np.array(instances))).numpy()
