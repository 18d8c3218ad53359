"""LitServe around the network whose weights `SERVED_WEIGHTS` names: batches of up to 32."""

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
import torch
from torch import Tensor

from benchmarks.served import bare_network


class Lstm(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self.network = bare_network()

    def decode_request(self, request: dict[str, Any]) -> Tensor:
        return torch.tensor(request["instances"])

    def batch(self, inputs: list[Tensor]) -> Tensor:
        return torch.cat(inputs)

    def predict(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = self.network(x)
        return found

    def unbatch(self, output: Tensor) -> list[Tensor]:
        return list(output)

    def encode_response(self, output: Tensor) -> dict[str, list[float]]:
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    api = Lstm(max_batch_size=32, batch_timeout=0.002, api_path="/invocations")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )
