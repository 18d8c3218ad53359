"""Settings: every variable documented, every wrong value refused by name."""

import re
from pathlib import Path
from typing import get_args

import pytest

from mlops.errors import SettingsError
from mlops.paths import path_of
from mlops.rollout.plan import Strategy
from mlops.settings import Settings, current_settings, load_settings
from mlops.store.connect import find_database_file
from tests.awkward import NAMES

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def documented() -> dict[str, str]:
    lines = EXAMPLE.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]", line))


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in documented():
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_example_file_names_every_variable_and_no_other():
    assert {name.lower() for name in documented()} == set(Settings.model_fields)


def test_the_example_file_states_the_defaults(environment):
    defaults = load_settings()
    for name, value in documented().items():
        environment.setenv(name, value)
    assert load_settings() == defaults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MIN_MODEL_ACCURACY", "60"),
        ("MAX_MODEL_MSE", "-1"),
        ("MIN_R2_SCORE", "1.5"),
        ("MAX_CONCURRENT_TRAINING_JOBS", "0"),
        ("TRAINING_JOB_TIMEOUT_HOURS", "0"),
        ("MIN_TRAINING_DATA_POINTS", "10"),
        ("DEFAULT_TIMEFRAME", "hourly"),
        ("DEFAULT_TARGET", "vol"),
        ("DEFAULT_HORIZON", "0"),
        ("DEFAULT_VENUE", "Bin ance"),
        ("DEVICE", "tpu"),
        ("FEE_BPS", "-3"),
        ("FEE_BPS_BY_SYMBOL", "EUR/USD"),
        ("FEE_BPS_BY_SYMBOL", "EUR/USD=-1"),
        ("VALIDATION_THRESHOLD_MODE", "lenient"),
        ("YEARLY_ALPHA_BUDGET", "0.7"),
        ("MAX_DRAWDOWN_LIMIT", "-0.25"),
        ("ALLOW_SIGNED_PICKLE", "maybe"),
        ("MLFLOW_EXPERIMENT_NAME", " "),
        ("DEFAULT_DEPLOYMENT_STRATEGY", "big_bang"),
        ("CANARY_TRAFFIC_PERCENTAGE", "10"),
        ("CANARY_TRAFFIC_PERCENTAGE", "0"),
        ("HEALTH_CHECK_TIMEOUT", "0"),
        ("HEALTH_CHECK_TIMEOUT", "inf"),
        ("ROLLOUT_DWELL_SECONDS", "-1"),
        ("ROLLOUT_BAKE_SECONDS", "nan"),
        ("ROLLOUT_HOLD_HOURS", "0"),
        ("API_HOST", "http://here"),
        ("API_PORT", "70000"),
        ("SERVING_QUEUE_LIMIT", "0"),
        ("SERVING_MAX_BODY_MB", "0"),
        ("SERVING_TIME_BUDGET_S", "-5"),
        ("FORECAST_MAX_AGE_BARS", "0"),
        ("FORECAST_LOG_DAYS", "0"),
        ("REPLICA_SPOOL_MB", "none"),
        ("SERVE_LOG_MB", "0"),
        ("MONITORING_WINDOW_HOURS", "0"),
        ("PERFORMANCE_THRESHOLD", "-0.1"),
        ("DRIFT_THRESHOLD", "1"),
        ("DECISION_WINDOW_HOURS", "0"),
        ("ALERT_EMAIL", "nobody"),
        ("ALERT_EMAIL", "a@example.com;b@example.com"),
        ("SMTP_FROM", "nobody"),
        ("SMTP_SSL", "perhaps"),
        ("SMTP_PORT", "0"),
        ("ALERT_MESSAGES_PER_HOUR", "0"),
    ],
)
def test_a_wrong_value_is_refused_with_its_variable_named(environment, name, value):
    environment.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load_settings()


def test_an_empty_variable_means_the_default(environment):
    environment.setenv("MIN_R2_SCORE", "")
    assert load_settings().min_r2_score == 0.5


def test_mail_may_go_to_several_addresses(environment):
    environment.setenv("ALERT_EMAIL", "a@example.com,b@example.com ,")
    assert load_settings().alert_email == "a@example.com, b@example.com"


@pytest.mark.parametrize(
    ("port", "given", "first"),
    [("465", "", True), ("25", "", False), ("25", "true", True), ("465", "false", False)],
)
def test_port_465_speaks_tls_from_the_first_byte_unless_told_otherwise(
    environment, port, given, first
):
    environment.setenv("SMTP_PORT", port)
    environment.setenv("SMTP_SSL", given)
    assert load_settings().speaks_smtps is first


def test_every_strategy_that_needs_no_test_may_be_the_default_and_nothing_else(environment):
    named = Settings.model_fields["default_deployment_strategy"].annotation
    strategies = tuple(one for one in Strategy if one is not Strategy.AB_TEST)
    assert get_args(named) == strategies
    for strategy in strategies:
        environment.setenv("DEFAULT_DEPLOYMENT_STRATEGY", strategy)
        assert load_settings().default_deployment_strategy == strategy


def test_a_rollout_waits_as_its_strategy_says_unless_it_is_told(environment):
    assert load_settings().rollout_dwell_seconds is None
    environment.setenv("ROLLOUT_DWELL_SECONDS", "0")
    assert load_settings().rollout_dwell_seconds == 0


def test_costs_are_looked_up_by_symbol(environment):
    environment.setenv("FEE_BPS_BY_SYMBOL", "EUR/USD=0.5, BTC/USDT=7.5")
    settings = load_settings()
    assert settings.fee_for("btc/usdt") == 7.5
    assert settings.fee_for("ETH/USDT") == settings.fee_bps


def test_costs_are_kept_by_the_one_spelling_of_a_symbol(environment):
    environment.setenv("FEE_BPS_BY_SYMBOL", "kPEPE/USDC:USDC=3,es=f=2,brk.b=1")
    settings = load_settings()
    assert settings.fee_bps_by_symbol == {"KPEPE/USDC:USDC": 3, "ES=F": 2, "BRK.B": 1}
    assert settings.fee_for("Es=F") == 2
    assert Settings(_env_file=None, fee_bps_by_symbol={"btc/usdt": 5}).fee_for("BTC/USDT") == 5


def test_costs_of_what_is_no_symbol_are_refused(environment):
    environment.setenv("FEE_BPS_BY_SYMBOL", "BTC USDT=3")
    with pytest.raises(SettingsError, match=r"FEE_BPS_BY_SYMBOL.*has the character ' '"):
        load_settings()


def test_a_length_of_bars_is_kept_in_its_one_spelling(environment):
    environment.setenv("DEFAULT_TIMEFRAME", "60m")
    assert load_settings().default_timeframe == "1h"


def test_paths_and_databases_follow_the_base_path(environment, tmp_path):
    environment.setenv("MLOPS_BASE_PATH", str(tmp_path / "platform"))
    settings = load_settings()
    assert settings.bars_path == tmp_path / "platform" / "bars"
    assert settings.database_url == f"sqlite:///{tmp_path / 'platform' / 'store.db'}"
    assert settings.tracking_uri == f"file://{tmp_path / 'platform' / 'mlruns'}"


@pytest.mark.parametrize("text", ["~/mlops", "$HOME/mlops", "${HOME}/mlops"])
@pytest.mark.parametrize("place", [".env", "environment"])
def test_the_home_directory_may_be_named_in_a_path(environment, tmp_path, text, place):
    environment.setenv("HOME", str(tmp_path / "home"))
    settings = {
        "MLOPS_BASE_PATH": text,
        "MLFLOW_TRACKING_URI": f"{text}/mlruns",
        "STORE_URL": f"sqlite:///{text}/s.db",
    }
    if place == ".env":
        Path(".env").write_text("\n".join(f"{name}={value}" for name, value in settings.items()))
    else:
        for name, value in settings.items():
            environment.setenv(name, value)
    found = load_settings()
    assert found.mlops_base_path == tmp_path / "home" / "mlops"
    assert found.tracking_uri == str(tmp_path / "home" / "mlops" / "mlruns")
    assert found.database_url == f"sqlite:///{tmp_path / 'home' / 'mlops' / 's.db'}"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("MLOPS_BASE_PATH", "$NOT_SET/x", "'NOT_SET' of the environment is not set"),
        ("MLFLOW_TRACKING_URI", "$NOT_SET/x", "'NOT_SET' of the environment is not set"),
        ("STORE_URL", "sqlite:///$NOT_SET/x.db", "'NOT_SET' of the environment is not set"),
        ("MLOPS_BASE_PATH", "~nobody_at_all/x", "home directory of nobody"),
        ("MLOPS_BASE_PATH", "/data/x ", "ends with a blank"),
        ("MLOPS_BASE_PATH", b"/data/\xfc".decode(errors="surrogateescape"), "not UTF-8"),
        ("MLFLOW_TRACKING_URI", "file://mlruns", "write file:///absolute/path"),
        ("MLFLOW_TRACKING_URI", "sqlite:mlflow.db", "three slashes"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(environment, name, value, why):
    environment.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}=.*{why}"):
        load_settings()


def test_an_env_file_in_another_encoding_is_refused_by_its_name(environment, tmp_path):
    Path(".env").write_bytes(b"MLFLOW_EXPERIMENT_NAME=Pr\xfcfung\n")
    with pytest.raises(SettingsError, match=rf"{tmp_path}/\.env is not UTF-8: byte 0xfc"):
        load_settings()


@pytest.mark.parametrize("name", NAMES)
def test_every_path_of_a_base_path_lies_in_it(environment, tmp_path, name):
    environment.setenv("MLOPS_BASE_PATH", f"{tmp_path / name}/")
    settings = load_settings()
    assert settings.mlops_base_path == tmp_path / name
    assert find_database_file(settings.database_url) == tmp_path / name / "store.db"
    assert path_of(settings.tracking_uri) == tmp_path / name / "mlruns"


def test_configured_databases_win_over_the_base_path(environment):
    environment.setenv("STORE_URL", "postgresql://trader:secret@db/mlops")
    environment.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    settings = load_settings()
    assert settings.database_url.startswith("postgresql://")
    assert settings.tracking_uri == "http://mlflow:5000"
    assert "secret" not in repr(settings)


def test_a_call_that_names_only_a_symbol_gets_the_default_service(environment):
    environment.setenv("DEFAULT_HORIZON", "6")
    assert load_settings().service("BTC/USDT").key == "binance.btc-usdt.1h.volatility.6"


def test_current_settings_follow_a_changed_environment(environment):
    assert current_settings().default_horizon == 24
    environment.setenv("DEFAULT_HORIZON", "12")
    assert current_settings().default_horizon == 12


@pytest.mark.parametrize(
    ("given", "level", "threshold"),
    [
        ({}, 0.95, 0.05),
        ({"AB_TEST_CONFIDENCE_LEVEL": "0.9"}, 0.9, 0.1),
        ({"AB_TEST_SIGNIFICANCE_THRESHOLD": "0.01"}, 0.99, 0.01),
        (
            {"AB_TEST_CONFIDENCE_LEVEL": "0.8", "AB_TEST_SIGNIFICANCE_THRESHOLD": "0.2"},
            0.8,
            0.2,
        ),
    ],
)
def test_of_confidence_level_and_threshold_one_follows_the_other(
    environment, given, level, threshold
):
    for name, value in given.items():
        environment.setenv(name, value)
    settings = load_settings()
    assert settings.ab_test_confidence_level == pytest.approx(level, abs=1e-12)
    assert settings.ab_test_significance_threshold == pytest.approx(threshold, abs=1e-12)


def test_a_level_and_a_threshold_that_disagree_are_refused_by_name(environment):
    environment.setenv("AB_TEST_CONFIDENCE_LEVEL", "0.95")
    environment.setenv("AB_TEST_SIGNIFICANCE_THRESHOLD", "0.1")
    with pytest.raises(SettingsError, match=r"AB_TEST_CONFIDENCE_LEVEL=0\.95") as refused:
        load_settings()
    assert "AB_TEST_SIGNIFICANCE_THRESHOLD=0.1" in str(refused.value)


def test_a_level_that_is_none_is_refused_alone(environment):
    environment.setenv("AB_TEST_CONFIDENCE_LEVEL", "95")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "AB_TEST_SIGNIFICANCE_THRESHOLD" not in str(refused.value)
