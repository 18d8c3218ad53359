"""A model that is sent, decoded and registered in a real child."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest

from mlops.api.children import Children, Work
from mlops.api.problems import Problem
from mlops.api.uploads import Upload, decode_model, most_body_bytes, register_upload
from mlops.errors import ModelFileError
from mlops.manager import MLOpsManager
from mlops.models.model_file import make_model_file
from mlops.registry.connection import load
from mlops.settings import Settings
from mlops.store import get_version
from tests.conftest import mlflow_forgets
from tests.mlops.registry.conftest import bars, dataset, linear
from tests.project import seeded

__all__ = ["bars", "dataset", "linear"]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
def test_both_alphabets_are_read_padded_or_not(size: int) -> None:
    content = bytes(range(251))[:size] * 3
    for text in (base64.b64encode(content), base64.urlsafe_b64encode(content)):
        assert decode_model(text.decode(), 1.0) == content
        assert decode_model(text.decode().rstrip("="), 1.0) == content


@pytest.mark.parametrize("text", ["a b c d ", "ab=c", "abcde", "ä", "abc\n", "===="])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(Problem, match="base64"):
        decode_model(text, 1.0)


def test_a_body_has_room_for_the_largest_model() -> None:
    assert most_body_bytes(3.0) >= len(base64.b64encode(bytes(3 * 1024**2))) + 1000


@pytest.mark.slow
def test_a_child_registers_what_another_installation_wrote(
    linear: object, tmp_path: Path, mlflow_template: Path
) -> None:
    base = seeded(tmp_path / "base", mlflow_template)
    settings = Settings(_env_file=None, mlops_base_path=base)
    upload = Upload(
        model_type="linear", symbol="BTC/USD", content=make_model_file(linear),  # type: ignore[arg-type]
        metrics={"mse": 0.1, "mae": 0.2}, notes={"venue": "simulator"}, config=None,
        actor="local", request=None,
    )  # fmt: skip
    children = Children()
    try:
        made = children.run(Work.UPLOAD, register_upload, settings, upload)
        wrong = Upload(**{name: getattr(upload, name) for name in Upload.__slots__} | {
            "model_type": "lstm"
        })  # fmt: skip
        with pytest.raises(ModelFileError, match="say that type"):
            children.run(Work.UPLOAD, register_upload, settings, wrong)
    finally:
        children.close()
    with mlflow_forgets():
        manager = MLOpsManager(settings)
        version = get_version(manager.store, made["model_id"])
        assert version.claims_only
        assert make_model_file(load(manager.registry, version.model_id).forecaster) == (
            upload.content
        )
        manager.store.close()
    shutil.rmtree(base)
