"""Every environment variable of the platform, checked.

A field's name is the variable's name in lower case; ``.env`` in the working directory is read too.
`.env.example` documents each variable, and a test compares the two.
"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mlops.credentials import without_credentials
from mlops.env_file import check_env_file
from mlops.errors import ServiceError, SettingsError
from mlops.logs import LogFormat
from mlops.paths import expand_path, expand_url, require_utf8, sqlite_url
from mlops.service import Service, Target, Timeframe
from mlops.symbols import spell_symbol

Share = Annotated[float, Field(ge=0, le=1)]
ENV_FILE = Path(".env")
PATH_VARIABLES = ("MLOPS_BASE_PATH", "MLFLOW_TRACKING_URI", "STORE_URL")
SMTPS_PORT = 465
LEVELS = ("ab_test_confidence_level", "ab_test_significance_threshold")
"""Two settings that add up to 1; what both say is the chance that a test errs."""

Days = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ThresholdMode(StrEnum):
    """How the three thresholds MIN_MODEL_ACCURACY, MAX_MODEL_MSE and MIN_R2_SCORE are applied.

    ``skill``: relative to what is possible for the target. ``strict``: as absolute values for
    every target, which no honest model of returns can reach.
    """

    SKILL = "skill"
    STRICT = "strict"


class FileClock(StrEnum):
    """Market time of a service whose bars come from a file.

    ``wall``: the time of the day; the file is read again when it changes. ``end``: the close of
    the file's last bar. ``replay``: its last bars are repeated, as those of the embedded sample.
    """

    WALL = "wall"
    END = "end"
    REPLAY = "replay"


class Settings(BaseSettings):
    """The platform's configuration; build it with `load_settings` to get readable errors."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        str_strip_whitespace=True,
    )

    # MLflow and paths
    mlops_base_path: Path = Path(".mlops")
    mlflow_tracking_uri: SecretStr = SecretStr("")
    mlflow_experiment_name: str = Field(default="trading_models", min_length=1)
    mlflow_ui_url: str = Field(default="http://127.0.0.1:5000", pattern=r"^https?://[^\s@]+$")
    store_url: SecretStr = SecretStr("")

    # The service of a call that names only a symbol
    default_venue: str = Field(default="binance", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    default_timeframe: str = "1h"
    default_target: Target = Target.VOLATILITY
    default_horizon: int = Field(default=24, ge=1)

    # Data
    exchange_base_url: SecretStr = SecretStr("")
    file_clock: FileClock = FileClock.WALL
    fee_bps: float = Field(default=10.0, ge=0)
    fee_bps_by_symbol: Annotated[dict[str, float], NoDecode] = {"EUR/USD": 0.5}

    # Training
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_concurrent_training_jobs: int = Field(default=3, ge=1)
    training_job_timeout_hours: float = Field(default=6.0, gt=0)
    min_training_data_points: int = Field(default=1000, ge=100)
    custom_model_modules: Annotated[tuple[str, ...], NoDecode] = ()
    allow_signed_pickle: bool = False
    allow_onnx: bool = False

    # Validation
    min_model_accuracy: Share = 0.6
    max_model_mse: float = Field(default=1000.0, gt=0)
    min_r2_score: float = Field(default=0.5, le=1)
    validation_threshold_mode: ThresholdMode = ThresholdMode.SKILL
    yearly_alpha_budget: float = Field(default=0.05, gt=0, lt=0.5)
    max_drawdown_limit: float = Field(default=0.25, gt=0, le=1)

    # Deployment
    default_deployment_strategy: Literal["blue_green", "canary", "rolling", "shadow"] = "blue_green"
    canary_traffic_percentage: float = Field(default=0.1, gt=0, le=1)
    health_check_timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    rollout_dwell_seconds: Seconds | None = None
    rollout_bake_seconds: Seconds | None = None
    rollout_hold_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    # A/B tests
    ab_test_min_duration_hours: float = Field(default=24.0, gt=0, allow_inf_nan=False)
    ab_test_confidence_level: float = Field(default=0.95, gt=0, lt=1)
    ab_test_significance_threshold: float = Field(default=0.05, gt=0, lt=1)

    # Serving
    api_host: str = Field(default="127.0.0.1", pattern=r"^[A-Za-z0-9.:_-]+$")
    api_port: int = Field(default=8005, ge=1, le=65_535)
    api_in_replica: bool = True
    api_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    serving_queue_limit: int = Field(default=1024, ge=1)
    serving_max_body_mb: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    register_max_mb: float = Field(default=64.0, gt=0, le=1024, allow_inf_nan=False)
    serving_time_budget_s: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    forecast_max_age_bars: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    forecast_log_days: int = Field(default=30, ge=1)
    replica_spool_mb: float = Field(default=256.0, gt=0, allow_inf_nan=False)
    replica_request_log_mb: float = Field(default=1024.0, gt=0, allow_inf_nan=False)

    # Monitoring
    monitoring_window_hours: float = Field(default=24.0, gt=0, allow_inf_nan=False)
    performance_threshold: float = Field(default=0.15, ge=0, allow_inf_nan=False)
    drift_threshold: float = Field(default=0.1, ge=0, lt=1)
    decision_window_hours: float = Field(default=168.0, gt=0, allow_inf_nan=False)

    # Retention
    monitor_run_days: Days = 30
    alert_days: Days = 365
    bundle_days: Days = 90
    study_days: Days = 365
    drift_report_days: Days = 90
    cache_days: Days = 30
    prefect_run_days: Days = 14
    serve_log_mb: float = Field(default=64.0, gt=0, allow_inf_nan=False)

    # Logs
    log_format: LogFormat = LogFormat.TEXT
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    # Alerts
    alert_error_rate: float = Field(default=0.05, gt=0, lt=1)
    alert_latency_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    alert_email: str = ""
    smtp_host: str = "localhost"
    smtp_port: int = Field(default=25, ge=1, le=65_535)
    smtp_user: str = ""
    smtp_password: SecretStr = SecretStr("")
    smtp_from: str = Field(default="", pattern=r"^([^\r\n]*@[^\r\n]*)?$")
    smtp_starttls: bool = False
    smtp_ssl: bool | None = None
    slack_webhook_url: SecretStr = SecretStr("")
    alert_urls: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    alert_handlers: Annotated[tuple[str, ...], NoDecode] = ()
    alert_messages_per_hour: int = Field(default=30, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _complete_levels(cls, values: dict[str, object]) -> dict[str, object]:
        """Of confidence level and significance threshold one follows the other."""
        given = [name for name in LEVELS if values.get(name) is not None]
        if len(given) != 1:
            return values
        number = _read_share(values[given[0]])
        if number is None:
            return values
        other = LEVELS[1 - LEVELS.index(given[0])]
        return {**values, other: round(1.0 - number, 12)}

    @field_validator("ab_test_significance_threshold")
    @classmethod
    def _levels_agree(cls, value: float, info: ValidationInfo) -> float:
        level = info.data.get("ab_test_confidence_level")
        if level is not None and abs(level + value - 1.0) > 1e-9:
            raise ValueError(
                f"AB_TEST_CONFIDENCE_LEVEL={level:g} and AB_TEST_SIGNIFICANCE_THRESHOLD={value:g} "
                "do not add up to 1; set one of them, and the other follows"
            )
        return value

    @field_validator("mlops_base_path", mode="before")
    @classmethod
    def _expand_path(cls, value: object) -> object:
        if isinstance(value, str) and value != value.strip():
            raise ValueError(
                "it begins or ends with a blank; remove that, or end the path with / where the "
                "blank belongs to a folder's name"
            )
        if isinstance(value, str) or (isinstance(value, Path) and not value.is_absolute()):
            return Path(expand_path(str(value), os.environ))
        return value

    @field_validator("mlops_base_path")
    @classmethod
    def _fits_into_urls(cls, value: Path) -> Path:
        require_utf8(value.resolve())
        return value

    @field_validator("mlflow_tracking_uri", "store_url")
    @classmethod
    def _expand_url(cls, value: SecretStr) -> SecretStr:
        return SecretStr(expand_url(value.get_secret_value(), os.environ))

    @field_validator("alert_email")
    @classmethod
    def _are_addresses(cls, value: str) -> str:
        addresses = [address.strip() for address in value.split(",") if address.strip()]
        wrong = [
            address for address in addresses if not re.fullmatch(r"[^@\s;]+@[^@\s;]+", address)
        ]
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} is no address; write one address, or several separated by commas"
            )
        return ", ".join(addresses)

    @field_validator("alert_urls", mode="before")
    @classmethod
    def _split_urls(cls, value: object) -> object:
        # Separated by blanks, because a URL may contain a comma.
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("custom_model_modules", "alert_handlers", "api_allowed_hosts", mode="before")
    @classmethod
    def _split_modules(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("api_allowed_hosts")
    @classmethod
    def _are_hosts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [name for name in names if not re.fullmatch(r"[A-Za-z0-9.:_-]+", name)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no name of a host; write names, without ports")
        return tuple(name.lower() for name in names)

    @field_validator("fee_bps_by_symbol", mode="before")
    @classmethod
    def _split_fees(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        # A symbol may hold "=" too, as ES=F does.
        pairs = (part.rsplit("=", 1) for part in value.split(",") if part.strip())
        fees = {pair[0].strip(): pair[-1].strip() for pair in pairs}
        if any(symbol == fee for symbol, fee in fees.items()):
            raise ValueError("write it like BTC/USDT=10,EUR/USD=0.5")
        return fees

    @field_validator("fee_bps_by_symbol")
    @classmethod
    def _fees_are_costs(cls, value: dict[str, float]) -> dict[str, float]:
        negative = [symbol for symbol, fee in value.items() if not fee >= 0]
        if negative:
            raise ValueError(f"a fee is zero or more; below zero for {', '.join(negative)}")
        try:
            return {spell_symbol(symbol): fee for symbol, fee in value.items()}
        except ServiceError as error:
            raise ValueError(str(error)) from error

    @field_validator("default_timeframe")
    @classmethod
    def _is_a_timeframe(cls, value: str) -> str:
        try:
            return Timeframe.of(value).name
        except ServiceError as error:
            raise ValueError(str(error)) from error

    def __hash__(self) -> int:
        # The generated hash fails on the mapping of fees; equal settings have equal paths.
        return hash((self.mlops_base_path, self.store_url, self.mlflow_tracking_uri))

    @property
    def bars_path(self) -> Path:
        return self.mlops_base_path / "bars"

    @property
    def reports_path(self) -> Path:
        return self.mlops_base_path / "reports"

    @property
    def tracking_uri(self) -> str:
        """The configured URI, or SQLite under the base path."""
        configured = self.mlflow_tracking_uri.get_secret_value()
        return configured or (self.mlops_base_path.resolve() / "mlruns").as_uri()

    @property
    def exchange_url(self) -> str | None:
        """Address of the exchange instead of its own; None where none is configured."""
        return self.exchange_base_url.get_secret_value() or None

    @property
    def database_url(self) -> str:
        """The store's SQLAlchemy URL, or SQLite under the base path."""
        configured = self.store_url.get_secret_value()
        return configured or sqlite_url(self.mlops_base_path.resolve() / "store.db")

    @property
    def speaks_smtps(self) -> bool:
        """Whether the mail server speaks TLS from the first byte: SMTP_SSL, or port 465."""
        return self.smtp_port == SMTPS_PORT if self.smtp_ssl is None else self.smtp_ssl

    @property
    def latency_limit_ms(self) -> float:
        """The limit of the 99th percentile of latency: ALERT_LATENCY_MS, or half the time budget.

        A request that takes the whole budget is a fault; half of it leaves time to react.
        """
        half = self.serving_time_budget_s * 1e3 / 2.0
        return half if self.alert_latency_ms is None else self.alert_latency_ms

    def fee_for(self, symbol: str) -> float:
        """Cost of trading the whole position once, in bps of its value."""
        return self.fee_bps_by_symbol.get(spell_symbol(symbol), self.fee_bps)

    def service(
        self,
        symbol: str,
        *,
        venue: str | None = None,
        timeframe: str | None = None,
        target: str | None = None,
        horizon: int | None = None,
    ) -> Service:
        """The service of these parts; those left out are the defaults."""
        return Service.of(
            venue=self.default_venue if venue in (None, "") else venue,
            symbol=symbol,
            timeframe=self.default_timeframe if timeframe in (None, "") else timeframe,
            target=self.default_target if target in (None, "") else target,
            horizon=self.default_horizon if horizon is None else horizon,
        )


def expand_user_path(text: str) -> str:
    """A path of a call, with ``~`` and variables of the environment replaced as in a setting.

    Raises:
        ValueError: when there is no such user or variable.
    """
    return expand_path(text, os.environ)


def load_settings() -> Settings:
    """Read the environment and ``.env``.

    Raises:
        SettingsError: naming each wrong variable, what it was and what is allowed.
    """
    check_env_file(ENV_FILE, PATH_VARIABLES, {name for name, value in os.environ.items() if value})
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in problem['loc']).upper()}="
            f"{_shown(problem)}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise SettingsError(
            "settings refused; correct these environment variables (see .env.example):\n  "
            + "\n  ".join(lines)
        ) from error


def _read_share(value: object) -> float | None:
    """A number between 0 and 1; None where it is none, which the field itself refuses."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if 0.0 < number < 1.0 else None


def _shown(problem: ErrorDetails) -> str:
    """The refused value, unless it is a secret."""
    field = Settings.model_fields.get(str(problem["loc"][0])) if problem["loc"] else None
    if field is not None and "SecretStr" in repr(field.annotation):
        return "<not shown>"
    return without_credentials(repr(problem.get("input")))


@lru_cache(maxsize=1)
def _load_once(environment: frozenset[tuple[str, str]], directory: str) -> Settings:
    return load_settings()


def current_settings() -> Settings:
    """The settings of this process; read again when environment or working directory changed."""
    return _load_once(frozenset(os.environ.items()), os.getcwd())
