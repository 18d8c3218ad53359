"""The requests of MLflow's own scoring-server tests, put to MLflow's server and to ours.

What MLflow answers we answer with the same forecasts; what it refuses we refuse with the same
status, and with the same code where its parser refuses. Where we differ on purpose is listed.
"""

from __future__ import annotations

import asyncio
import io
import json

import httpx
import numpy as np
import pytest

from mlops.data.bars import COLUMNS
from mlops.data.calendar import load_calendar
from mlops.data.simulator import simulate_bars
from mlops.errors import RequestRefused
from mlops.models.bundle import open_bundle
from mlops.models.signing import load_or_make_key
from mlops.registry import bundle_parts, write_bundle
from mlops.serving.protocol.mlflow_scoring import error_body, parse, render
from mlops.serving.protocol.request_bars import InputSpec
from tests.mlops.registry.conftest import SERVICE, dataset_of, fitted

# MLflow warns of its own type hints and of whole numbers in a schema; ours are heard elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
MODEL = {"features": ["har_1", "har_24"], "sequence_length": 3}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity")
    dataset = dataset_of(simulate_bars(700, seed=1))
    parts = bundle_parts(fitted("linear", dataset, MODEL), dataset, SERVICE)
    write_bundle(parts, folder / "bundle", load_or_make_key(folder / "key"))
    return open_bundle(folder / "bundle")


@pytest.fixture(scope="module")
def spec(bundle):
    return InputSpec(
        timeframe=SERVICE.timeframe,
        calendar=load_calendar("24/7"),
        min_bars=int(bundle.config["warm_up"]),
        max_bars=1000,
        max_windows=8,
        needs_clock=False,
        unbroken_bars=3,
    )


@pytest.fixture(scope="module")
def mlflow_server(bundle, tmp_path_factory, mlflow_template):
    """MLflow's own server of the same bundle; asked in this process, without a socket."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import scoring_server
    from mlflow.types import ColSpec, Schema

    path = tmp_path_factory.mktemp("mlflow") / "model"
    columns = [ColSpec("string", "open_time"), *(ColSpec("double", name) for name in COLUMNS)]
    mlflow.pyfunc.save_model(
        path,
        loader_module="mlops.models.bundle",
        data_path=bundle.path,
        signature=ModelSignature(Schema(columns)),
        pip_requirements=[],
    )
    with pytest.MonkeyPatch.context() as patch:
        # The server says so to the whole process.
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
        yield scoring_server.init(mlflow.pyfunc.load_model(str(path)))


def ask_mlflow(app, body, content_type):
    async def post():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://mlflow") as client:
            return await client.post(
                "/invocations", content=body, headers={"content-type": content_type}
            )

    return asyncio.run(post())


def ask_ours(bundle, spec, body, content_type):
    """(status, body) as a replica answers."""
    try:
        windows = parse(body, content_type, spec)
        return 200, render(bundle.forecast_windows(windows))
    except RequestRefused as refused:
        return refused.status, error_body(refused.status, refused.code, str(refused), "r-1")


FRAME = simulate_bars(40, seed=5)
TEXT_TIMES = [stamp.isoformat() for stamp in FRAME.index]
TIMED = FRAME.reset_index().assign(open_time=TEXT_TIMES)


def split(frame, **more):
    cut = {"columns": list(frame.columns), "data": frame.to_numpy().tolist()}
    return json.dumps({"dataframe_split": {**cut, **more}}).encode()


def records(frame):
    return json.dumps({"dataframe_records": frame.to_dict(orient="records")}).encode()


def parquet(frame):
    sink = io.BytesIO()
    frame.to_parquet(sink)
    return sink.getvalue()


ANSWERED = {
    "records": (records(TIMED), JSON),
    "records, charset said": (records(TIMED), JSON + "; charset=UTF-8"),
    "split": (split(TIMED), JSON),
    "split, charset said": (split(TIMED), JSON + "; charset=UTF-8"),
    "split with index": (split(TIMED, index=list(range(40))), JSON),
    "split, columns shuffled": (split(TIMED[["close", "open_time", *COLUMNS[:3], "volume"]]), JSON),
    "split, another column": (split(TIMED.assign(note="x")), JSON),
    "columns": (json.dumps({"inputs": TIMED.to_dict(orient="list")}).encode(), JSON),
    "csv": (TIMED.to_csv(index=False).encode(), CSV),
    "csv with row numbers": (TIMED.to_csv().encode(), CSV),
    "csv, charset said": (TIMED.to_csv(index=False).encode(), CSV + "; charset=utf-8"),
    "parquet": (parquet(TIMED), PARQUET),
    "a hole early on": (split(TIMED.drop(index=[3, 4])), JSON),
    "empty params": (split(TIMED)[:-1] + b', "params": {}}', JSON),
}

UNPARSED = {
    "malformed": (b"this is,,,, not valid json", JSON),
    "empty": (b"", JSON),
    "not utf-8": (b"\xff\xfe{}", JSON),
    "a number": (b"1", JSON),
    "a text": (b'"1"', JSON),
    "a list": (b"[1]", JSON),
    "no form": (b'{"not": "a serialized dataframe"}', JSON),
    "two forms": (b'{"dataframe_records": [], "dataframe_split": {"data": []}}', JSON),
    "records as split": (json.dumps({"dataframe_records": {"data": []}}).encode(), JSON),
    "split as records": (json.dumps({"dataframe_split": [{"open": 1}]}).encode(), JSON),
    "index unlike data": (b'{"dataframe_split":{"index":[1,2],"data":[[1],[2],[3]]}}', JSON),
    "no data": (b'{"dataframe_split":{"columns":["open"]}}', JSON),
    "empty csv": (b"", CSV),
    "csv not utf-8": (b"open\n\xff", CSV),
    "parquet that is none": (b"PAR1 but not really", PARQUET),
    "frame as text": (str(FRAME).encode(), JSON),
}

UNSUPPORTED = {
    "type": (split(TIMED), "not_a_supported_content_type"),
    "parameter": (split(TIMED), JSON + "; something=something"),
    "charset": (split(TIMED), JSON + "; charset=latin-1"),
}

REFUSED = {
    "missing column": (split(TIMED.drop(columns="volume")), JSON),
    "no rows": (split(TIMED[:0]), JSON),
    "text in a number": (split(TIMED.assign(close="high")), JSON),
    "ragged": (b'{"instances": [[1, 2], [3]]}', JSON),
    "another shape": (b'{"instances": [[[1.0]]]}', JSON),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_what_mlflow_answers_we_answer_alike(bundle, spec, mlflow_server, name):
    theirs = ask_mlflow(mlflow_server, *ANSWERED[name])
    status, ours = ask_ours(bundle, spec, *ANSWERED[name])

    assert (theirs.status_code, status) == (200, 200)
    expected = [record["forecast"] for record in theirs.json()["predictions"]]
    got = json.loads(ours)["predictions"]
    assert all(list(record) == ["forecast"] for record in got)
    assert len(got) == len(expected) > 0
    # pandas reads the last digit of a CSV otherwise than Python does.
    assert np.allclose([record["forecast"] for record in got], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", UNPARSED)
def test_what_mlflow_cannot_parse_has_the_same_code(bundle, spec, mlflow_server, name):
    theirs = ask_mlflow(mlflow_server, *UNPARSED[name])
    status, ours = ask_ours(bundle, spec, *UNPARSED[name])

    assert (theirs.status_code, status) == (400, 400)
    assert theirs.json()["error_code"] == json.loads(ours)["error_code"] == "BAD_REQUEST"


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_mlflow_does_not_support_is_a_415_sentence(bundle, spec, mlflow_server, name):
    theirs = ask_mlflow(mlflow_server, *UNSUPPORTED[name])
    status, ours = ask_ours(bundle, spec, *UNSUPPORTED[name])

    assert (theirs.status_code, status) == (415, 415)
    assert not ours.startswith(b"{")
    assert not theirs.content.startswith(b"{")


@pytest.mark.parametrize("name", REFUSED)
def test_what_mlflow_refuses_we_refuse_without_repeating_it(bundle, spec, mlflow_server, name):
    theirs = ask_mlflow(mlflow_server, *REFUSED[name])
    status, ours = ask_ours(bundle, spec, *REFUSED[name])

    assert (theirs.status_code, status) == (400, 400)
    assert json.loads(ours)["error_code"] in ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")
    assert len(ours) < 400
    assert b"Traceback" not in ours


BETTER = {
    "unknown params": split(TIMED)[:-1] + b', "params": {"temperature": 1}}',
    "the newest bar first": split(TIMED[::-1]),
    "a bar twice": split(TIMED.iloc[[*range(40), 39]]),
}


@pytest.mark.parametrize("name", BETTER)
def test_what_mlflow_lets_pass_we_refuse(bundle, spec, mlflow_server, name):
    assert ask_mlflow(mlflow_server, BETTER[name], JSON).status_code == 200
    assert ask_ours(bundle, spec, BETTER[name], JSON)[0] == 400


def test_plain_rows_need_no_times_here(bundle, spec, mlflow_server):
    body = json.dumps({"instances": FRAME.to_numpy().tolist()}).encode()

    status, ours = ask_ours(bundle, spec, body, None)

    assert status == 200
    timed = json.loads(ask_ours(bundle, spec, split(TIMED), JSON)[1])
    assert json.loads(ours) == timed
    assert ask_mlflow(mlflow_server, body, JSON).status_code == 400
