"""`Service`: what is forecast, named by venue, symbol, timeframe, target and horizon."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from mlops.errors import ServiceError
from mlops.plain_numbers import whole_number
from mlops.symbols import asset_name, decode_symbol, encode_symbol, spell_symbol

MAX_KEY = 91
"""Most characters of a service's key: with ``training:`` before it, it names a lease."""

MAX_HORIZON = 1_000_000

_TIMEFRAME = re.compile(r"([1-9][0-9]*)([mhd])|(1)(w)")
_UNIT_MINUTES = {"w": 7 * 1440, "d": 1440, "h": 60, "m": 1}
_MAX_MINUTES = 366 * 1440
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Target(StrEnum):
    """The quantity a service forecasts; `mlops.features.targets` defines each."""

    VOLATILITY = "volatility"
    RETURN = "return"
    PRICE = "price"
    DIRECTION = "direction"


@dataclass(frozen=True, slots=True)
class Timeframe:
    """The length of one bar, written as exchanges write it: minutes, hours, days or one week.

    >>> Timeframe("4h").minutes
    240
    >>> Timeframe("1d").step
    datetime.timedelta(days=1)

    Raises:
        ServiceError: when the name is not written like ``5m``, ``1h``, ``1d`` or ``1w``.
    """

    name: str

    def __post_init__(self) -> None:
        written = isinstance(self.name, str) and _TIMEFRAME.fullmatch(self.name)
        if not written:
            raise ServiceError(
                f"timeframe {self.name!r} is not a number of minutes, hours or days, nor one week; "
                "write it like 5m, 1h, 1d or 1w (shorter bars are not served; months and years "
                "have no fixed length)"
            )
        if len(self.name) > len(str(_MAX_MINUTES)) + 1 or self.minutes > _MAX_MINUTES:
            raise ServiceError(f"timeframe {self.name!r} is over a year; choose shorter bars")

    @classmethod
    def of(cls, name: str) -> Timeframe:
        """The timeframe in its one spelling, the one with the largest unit.

        >>> Timeframe.of("60m").name, Timeframe.of("90m").name, Timeframe.of("7d").name
        ('1h', '90m', '1w')

        Raises:
            ServiceError: when the name is no timeframe.
        """
        minutes = cls(name).minutes
        if minutes == _UNIT_MINUTES["w"]:
            return cls("1w")
        unit = next(unit for unit in "dhm" if minutes % _UNIT_MINUTES[unit] == 0)
        return cls(f"{minutes // _UNIT_MINUTES[unit]}{unit}")

    @property
    def minutes(self) -> int:
        return int(self.name[:-1]) * _UNIT_MINUTES[self.name[-1]]

    @property
    def step(self) -> timedelta:
        return timedelta(minutes=self.minutes)

    def open_of(self, moment: datetime) -> datetime:
        """Open of the bar that contains a moment (aware), in a market that never closes.

        Weeks open on Monday at 00:00 UTC; shorter bars are counted from 1970-01-01.

        >>> Timeframe("1w").open_of(datetime(2024, 12, 5, 12, tzinfo=UTC)).isoformat()
        '2024-12-02T00:00:00+00:00'
        """
        is_week = self.minutes == _UNIT_MINUTES["w"]
        start = _FIRST_MONDAY if is_week else _EPOCH
        return start + (moment - start) // self.step * self.step

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Service:
    """What is forecast; `key` is its name in the store and the name of MLflow's registered model.

    >>> service = Service.of(
    ...     venue="binance", symbol="btc/usdt", timeframe="1h", target="volatility", horizon=24
    ... )
    >>> service.symbol, service.key
    ('BTC/USDT', 'binance.btc-usdt.1h.volatility.24')
    >>> Service.parse(service.key) == service
    True

    Args:
        symbol: Base and quote asset, ``BTC/USDT``; of a future with settlement asset,
            ``BTC/USDT:USDT``; of a share, an index or a contract one name, ``BRK.B``. Kept in
            upper case.
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
        if not isinstance(self.venue, str) or not _NAME.fullmatch(self.venue):
            raise ServiceError(f"venue {self.venue!r} is not a lower-case name such as 'binance'")
        object.__setattr__(self, "symbol", spell_symbol(self.symbol))
        object.__setattr__(self, "horizon", _checked_horizon(self.horizon))

    @classmethod
    def of(cls, *, venue: str, symbol: str, timeframe: str, target: str, horizon: int) -> Service:
        """A service from text, its timeframe in the spelling of `Timeframe.of`.

        Raises:
            ServiceError: when a part is not legal, or the key is too long.
        """
        service = cls(venue, symbol, Timeframe.of(timeframe), _parse_target(target), horizon)
        if len(service.key) > MAX_KEY:
            raise ServiceError(
                f"service {service.key} has {len(service.key)} characters, at most {MAX_KEY} are "
                "allowed; choose a shorter symbol (one outside A to Z and 0 to 9 counts up to 8)"
            )
        return service

    @classmethod
    def parse(cls, key: str) -> Service:
        """The service of a `key`.

        Raises:
            ServiceError: when the text is not a key.
        """
        parts = key.split(".") if isinstance(key, str) else []
        if len(parts) != 5 or not (parts[4].isascii() and parts[4].isdigit()):
            raise ServiceError(
                f"service key {key!r} is not written like binance.btc-usdt.1h.volatility.24"
            )
        venue, symbol, timeframe, target, horizon = parts
        # Not `Timeframe.of`: the key of a stored service keeps the spelling it was stored with.
        name = Timeframe(timeframe)
        return cls(venue, decode_symbol(symbol), name, _parse_target(target), int(horizon))

    @property
    def key(self) -> str:
        symbol = encode_symbol(self.symbol)
        return f"{self.venue}.{symbol}.{self.timeframe}.{self.target}.{self.horizon}"

    def __str__(self) -> str:
        return self.key


def _parse_target(target: str) -> Target:
    try:
        return Target(target)
    except ValueError as error:
        raise ServiceError(f"target {target!r} is not one of {', '.join(Target)}") from error


def _checked_horizon(given: object) -> int:
    horizon = whole_number(given)
    if horizon is None:
        raise ServiceError(f"horizon {given!r} is not a whole number of bars; write it like 24")
    if horizon < 1:
        raise ServiceError(f"horizon {horizon} is below 1 bar")
    if horizon > MAX_HORIZON:
        raise ServiceError(f"horizon {horizon} is above {MAX_HORIZON:,} bars")
    return horizon


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
    stem = f"{model_type}_{asset_name(symbol)}_{at.astimezone(UTC):%Y%m%d_%H%M%S}"
    suffix = 2
    name = stem
    while name in taken:
        name = f"{stem}_{suffix}"
        suffix += 1
    return name
