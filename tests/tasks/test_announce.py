"""What people are shown of a verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlops.service import Service
from tasks.announce import artifact_key, gate_table, run_url

from .conftest import Studied


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("binance.btc-usdt.1h.volatility.24", "train-binance-btc-usdt-1h-volatility-24"),
        ("gate_io.btc-usdt-usdt.5m.return.1", "train-gate-io-btc-usdt-usdt-5m-return-1"),
    ],
)
def test_a_key_has_the_characters_prefect_allows(key: str, expected: str) -> None:
    assert artifact_key(Service.parse(key)) == expected


def test_a_table_has_a_row_for_each_gate_with_its_reason(returns: Studied) -> None:
    judgement, version = returns.judged(), returns.registered()
    table = gate_table(returns.project, version, judgement, Path("card.html"))
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(judgement.report.results)
    assert table.startswith(f"# {version.model_id}: refused")
    assert all(result.reason in table for result in judgement.report.results)


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("sqlite:////data/mlflow.db", "http://127.0.0.1:5000"),
        ("https://mlflow.example/", "https://mlflow.example"),
    ],
)
def test_a_run_is_linked_where_mlflow_shows_it(volatility: Studied, uri: str, host: str) -> None:
    registry = volatility.project.registry
    elsewhere = replace(registry, tracking=replace(registry.tracking, uri=uri))
    version = volatility.registered()
    url = run_url(replace(volatility.project, registry=elsewhere), version)
    assert url == f"{host}/#/experiments/{registry.tracking.experiment_id}/runs/{version.run_id}"
