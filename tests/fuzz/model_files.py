"""Mutated model files: each is refused by a `ModelFileError`, or holds a model that is one.

The mutants are safetensors and ONNX, made in memory from sound files. What the reader lets through
is made a candidate for registration, as the child of an upload makes it; that may refuse it, by an
error of the library.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import numpy as np
import onnx

from mlops.data.simulator import simulate_bars
from mlops.errors import MlopsError, ModelFileError
from mlops.features.dataset import Dataset
from mlops.models.bundle import Trust
from mlops.models.file_formats import FileReading, read_file
from mlops.models.model_file import MODEL_KEY, make_model_file
from mlops.models.tensor_file import METADATA
from mlops.registry.claims import claimed_candidate
from tests.fuzz.bundles import mutate_tensors
from tests.fuzz.mutations import LEAVES, Mutator, json_bytes
from tests.mlops.models.graphs import FEATURES, STEPS, linear_graph, lstm_graph
from tests.mlops.registry.conftest import SERVICE, dataset_of, fitted

BARS, SEED = 1500, 1
SMALL = {"epochs": 1, "sequence_length": 4, "features": ["har_1", "har_24"]}
CONFIGS: dict[str, dict[str, object]] = {
    "linear": {"sequence_length": 3, "features": ["har_1", "har_24"]},
    "lstm": {**SMALL, "lstm_units": [4]},
    "transformer": {**SMALL, "embed_dim": 4, "num_heads": 2, "ff_dim": 4, "num_layers": 1},
}
GRAPH_FEATURES = ("har_1", "har_24")
_WORDS = (
    "recipe", "model_type", "features", "sequence_length", "params", "members", "target", "kind",
    "horizon", "scaler", "center", "scale", "transform", "intercept", "penalty", "weights",
    "linear", "lstm", "ensemble", "custom", "class_path",
)  # fmt: skip
_OPERATORS = ("Add", "MatMul", "Gemm", "If", "Loop", "Expand", "Reshape", "Gather", "LSTM", "Shape")


class Original(NamedTuple):
    """A sound file, and the type of the model in it."""

    model_type: str
    content: bytes


class Passed(NamedTuple):
    """A mutant that the reader let through: its number, type and bytes."""

    number: int
    model_type: str
    content: bytes


@dataclass
class ModelFileResults:
    """What became of the mutants; ``findings`` says what must not be."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)


def make_originals(dataset: Dataset) -> list[Original]:
    """A sound file of each kind."""
    models = {name: fitted(name, dataset, config) for name, config in CONFIGS.items()}
    members = [models[name].recipe for name in ("linear", "lstm")]
    models["ensemble"] = fitted("ensemble", dataset, {"members": members})
    models["persistence"] = fitted("persistence", dataset)
    files = [Original(name, make_model_file(model)) for name, model in models.items()]
    weights = np.linspace(-0.5, 0.5, STEPS * FEATURES)[:, None]
    return [*files, Original("onnx", linear_graph(weights)), Original("onnx", lstm_graph())]


def make_dataset() -> Dataset:
    """The bars that the originals were fitted to."""
    return dataset_of(simulate_bars(BARS, seed=SEED))


def plan_reading(dataset: Dataset) -> FileReading:
    """How the mutants are read."""
    return FileReading(
        dataset.target, allow_onnx=True, features=GRAPH_FEATURES, sequence_length=STEPS
    )


def fuzz_model_files(
    originals: Sequence[Original], dataset: Dataset, *, seed: int, numbers: range
) -> ModelFileResults:
    """Read mutants of sound files, and make candidates of those that can be read.

    Args:
        numbers: Which mutants of this seed; each depends on seed and number only.
    """
    results = ModelFileResults()
    reading = plan_reading(dataset)
    for number in numbers:
        original, mutant = make_mutant(originals, seed, number)
        outcome = read_mutant(mutant, original.model_type, dataset, reading)
        results.outcomes[outcome] += 1
        if outcome.startswith("read"):
            results.passed.append(Passed(number, original.model_type, mutant))
        elif not outcome.startswith("refused"):
            results.findings.append(f"file {number}: {outcome}")
    return results


def make_mutant(originals: Sequence[Original], seed: int, number: int) -> tuple[Original, bytes]:
    """The mutant of a number, and what it was made from."""
    random = Random(f"{seed}:file:{number}")
    original = random.choice(originals)
    mutator = Mutator(random)
    others = [other.content for other in originals]
    if random.random() < 0.3:
        return original, mutator.mutate_bytes(original.content, others)
    if original.model_type == "onnx":
        return original, mutate_graph(mutator, original.content)
    if random.random() < 0.3:
        return original, mutate_tensors(mutator, original.content)
    return original, mutate_state(mutator, original.content)


def read_mutant(content: bytes, model_type: str, dataset: Dataset, reading: FileReading) -> str:
    """Read a file as the child of an upload does, and say what came of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            forecaster = read_file(content, reading)
    except ModelFileError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__} instead of ModelFileError: {str(error)[:200]}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            claimed_candidate(
                forecaster, model_type=model_type, service=SERVICE,
                metrics={"mse": 0.1, "mae": 0.1}, dataset=dataset, trust=Trust(), notes={},
            )  # fmt: skip
    except MlopsError:
        return "read, not registered"
    except Exception as error:
        return f"{type(error).__name__} from a candidate: {str(error)[:200]}"
    return "read, registered"


def mutate_state(mutator: Mutator, content: bytes) -> bytes:
    """A safetensors file whose header is sound and whose model has another state."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    text = header[METADATA][MODEL_KEY].encode()
    if mutator.random.random() < 0.5:
        text = mutator.mutate_numbers(text)
    else:
        text = json_bytes(mutator.mutate_json(json.loads(text), _WORDS))
    header[METADATA][MODEL_KEY] = text.decode("latin-1")
    changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + content[8 + length :]


def mutate_graph(mutator: Mutator, content: bytes) -> bytes:
    """A graph with other operators, attributes, shapes, ports or tensors."""
    model = onnx.load_model_from_string(content)
    for _ in range(mutator.random.choice((1, 1, 2, 3))):
        if model.graph.node:
            _change_graph(mutator.random, model.graph)
    return bytes(model.SerializeToString())


def _change_graph(random: Random, graph: Any) -> None:
    node = random.choice(graph.node)
    match random.randrange(7):
        case 0:
            node.op_type = random.choice(_OPERATORS)
        case 1 if node.attribute:
            random.choice(node.attribute).i = random.choice((-1, 0, 2, 2**31, 2**62))
        case 2 if graph.initializer:
            tensor = random.choice(graph.initializer)
            if tensor.dims:
                tensor.dims[0] = random.choice((-1, 0, 1, 7, 2**40))
        case 3 if node.input:
            node.input[0] = random.choice([*node.input, *node.output, "x", "y", "nobody"])
        case 4:
            dims = random.choice([*graph.input, *graph.output]).type.tensor_type.shape.dim
            if dims:
                random.choice(dims).dim_value = random.choice((-1, 0, 1, 5, 2**40))
        case 5:
            graph.node.append(node)
        case _:
            text = random.choice([leaf for leaf in LEAVES if isinstance(leaf, str)])
            node.name = text.encode("utf-8", "ignore").decode()
            del graph.node[random.randrange(len(graph.node))]
