"""`Service`: what is forecast, named by venue, symbol, timeframe, target and horizon."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from mlops.errors import ServiceError

_TIMEFRAME = re.compile(r"([1-9]\d*)([mhd])")
_UNIT_MINUTES = {"m": 1, "h": 60, "d": 1440}
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SYMBOL = re.compile(r"[A-Za-z0-9]+/[A-Za-z0-9]+(:[A-Za-z0-9]+)?")


class Target(StrEnum):
    """The quantity a service forecasts; `mlops.features.targets` defines each."""

    VOLATILITY = "volatility"
    RETURN = "return"
    PRICE = "price"
    DIRECTION = "direction"


@dataclass(frozen=True, slots=True)
class Timeframe:
    """The length of one bar, written as exchanges write it: minutes, hours or days.

    >>> Timeframe("4h").minutes
    240
    >>> Timeframe("1d").step
    datetime.timedelta(days=1)

    Raises:
        ServiceError: when the name is not written like ``5m``, ``1h`` or ``1d``.
    """

    name: str

    def __post_init__(self) -> None:
        if not _TIMEFRAME.fullmatch(self.name):
            raise ServiceError(
                f"timeframe {self.name!r} is not a number of minutes, hours or days; "
                "write it like 5m, 1h or 1d"
            )

    @property
    def minutes(self) -> int:
        match = _TIMEFRAME.fullmatch(self.name)
        assert match is not None
        return int(match[1]) * _UNIT_MINUTES[match[2]]

    @property
    def step(self) -> timedelta:
        return timedelta(minutes=self.minutes)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Service:
    """What is forecast; `key` is its name in the store and the name of MLflow's registered model.

    >>> service = Service.of(
    ...     venue="binance", symbol="BTC/USDT", timeframe="1h", target="volatility", horizon=24
    ... )
    >>> service.key
    'binance.btc-usdt.1h.volatility.24'
    >>> Service.parse(service.key) == service
    True

    Args:
        symbol: Base and quote asset, ``BTC/USDT``; of a future with settlement asset,
            ``BTC/USDT:USDT``.
        horizon: How far ahead is forecast, in bars.

    Raises:
        ServiceError: when a part is not a legal name or the horizon is below one.
    """

    venue: str
    symbol: str
    timeframe: Timeframe
    target: Target
    horizon: int

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.venue):
            raise ServiceError(f"venue {self.venue!r} is not a lower-case name such as 'binance'")
        if not _SYMBOL.fullmatch(self.symbol):
            raise ServiceError(f"symbol {self.symbol!r} is not written like 'BTC/USDT'")
        if self.horizon < 1:
            raise ServiceError(f"horizon {self.horizon} is below 1 bar")

    @classmethod
    def of(cls, *, venue: str, symbol: str, timeframe: str, target: str, horizon: int) -> Service:
        """A service from text.

        Raises:
            ServiceError: when a part is not legal.
        """
        try:
            kind = Target(target)
        except ValueError as error:
            allowed = ", ".join(Target)
            raise ServiceError(f"target {target!r} is not one of {allowed}") from error
        return cls(venue, symbol, Timeframe(timeframe), kind, horizon)

    @classmethod
    def parse(cls, key: str) -> Service:
        """The service of a `key`.

        Raises:
            ServiceError: when the text is not a key.
        """
        parts = key.split(".")
        if len(parts) != 5 or not parts[4].isdigit():
            raise ServiceError(
                f"service key {key!r} is not written like binance.btc-usdt.1h.volatility.24"
            )
        venue, symbol, timeframe, target, horizon = parts
        base, _, rest = symbol.upper().partition("-")
        quote, _, settle = rest.partition("-")
        pair = f"{base}/{quote}" + (f":{settle}" if settle else "")
        return cls.of(
            venue=venue, symbol=pair, timeframe=timeframe, target=target, horizon=int(horizon)
        )

    @property
    def key(self) -> str:
        symbol = self.symbol.lower().replace("/", "-").replace(":", "-")
        return f"{self.venue}.{symbol}.{self.timeframe}.{self.target}.{self.horizon}"

    def __str__(self) -> str:
        return self.key


def new_model_id(
    model_type: str, symbol: str, at: datetime, taken: frozenset[str] = frozenset()
) -> str:
    """The id of a version: model type, base asset and UTC second.

    >>> new_model_id("lstm", "BTC/USDT", datetime(2024, 12, 5, 12, tzinfo=UTC))
    'lstm_BTC_20241205_120000'

    Args:
        taken: Ids that exist; of two trainings that end within one second the second one gets a
            suffix.
    """
    base = symbol.partition("/")[0].upper()
    stem = f"{model_type}_{base}_{at.astimezone(UTC):%Y%m%d_%H%M%S}"
    suffix = 2
    name = stem
    while name in taken:
        name = f"{stem}_{suffix}"
        suffix += 1
    return name
