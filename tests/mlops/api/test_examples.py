"""The examples of the document are answers that the API really gives, and fit its schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from mlops.api.openapi import EXAMPLES, build_document
from tests.mlops.api.conftest import Library, World, made_world
from tests.mlops.api.in_process import InProcess
from tests.mlops.api.jobs_in_memory import JobsInMemory
from tests.mlops.api.make_examples import record_answers
from tests.project import skip_verification

NO_JSON = {"GET /mlops/api/models/{model_id}/file"}


@pytest.fixture(scope="module")
def answers(
    library_once: Library, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, dict[str, Any]]:
    jobs, folder = JobsInMemory(), tmp_path_factory.mktemp("examples")
    context = {"children": InProcess(), "open_jobs": lambda: jobs}
    with (
        pytest.MonkeyPatch.context() as patch,
        made_world(library_once, folder, context=context) as made,
    ):
        skip_verification(patch)
        recorded = record_answers(made)
    if request.config.getoption("--make-examples"):
        content = orjson.dumps(dict(sorted(recorded.items())), option=orjson.OPT_INDENT_2)
        readable = content.replace(str(library_once.folder).encode(), b"/srv/mlops")
        Path(str(EXAMPLES)).write_bytes(readable + b"\n")
    return recorded


def test_every_route_has_an_example(world: World) -> None:
    document = build_document(world.client.app)
    routes = {
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
    }
    assert set(orjson.loads(EXAMPLES.read_bytes())) == routes - NO_JSON


def test_the_api_answers_as_the_examples_say(answers: dict[str, dict[str, Any]]) -> None:
    kept = orjson.loads(EXAMPLES.read_bytes())
    assert {route: shape_of(by_status) for route, by_status in kept.items()} == {
        route: shape_of(by_status) for route, by_status in answers.items()
    }


def test_examples_fit_the_schema_of_their_status(world: World) -> None:
    document = build_document(world.client.app)
    for route, by_status in orjson.loads(EXAMPLES.read_bytes()).items():
        method, path = route.split(" ")
        answers = document["paths"][path][method.lower()]["responses"]
        for status, example in by_status.items():
            (media,) = answers[status]["content"].values()
            schema = media["schema"] | {"components": document["components"]}
            jsonschema.validate(example, schema)


def shape_of(value: Any) -> Any:
    """The keys of an answer, without its values."""
    if isinstance(value, dict):
        return {key: shape_of(part) for key, part in value.items()}
    return [shape_of(value[0])] if isinstance(value, list) and value else None
