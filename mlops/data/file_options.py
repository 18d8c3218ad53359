"""What a caller says of a file of bars: how it is read, when its market trades, what time it is.

The same names are arguments of `mlops.data.sources.files.FileSource` and fields of
`mlops.search.config.TrainingConfig`, so that a message which asks for one names what the caller
can pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mlops.settings import FileClock


class FileOptions(BaseModel):
    """How the rows of a file are read; nothing that is left out is guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stamps: Literal["open", "close"] = Field(
        "open", description="Whether a row is stamped at its open or its close"
    )
    timezone: str | None = Field(
        None, description="Zone of stamps that name none, such as UTC or Europe/Berlin"
    )
    dayfirst: bool | None = Field(
        None, description="Whether 03/04 is the third of April, where it can be read both ways"
    )
    time_format: str | None = Field(
        None, description="Form of the time as in strptime, such as %d.%m.%Y %H:%M"
    )
    time_column: str | None = Field(
        None, description="Column of the time; date and time in two columns: both, as Date+Time"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="New names of columns by their names in the file"
    )
    separator: str | None = Field(
        None, description="Separator of the cells of a CSV file; None: recognised from its header"
    )
    decimal: Literal[".", ","] | None = Field(
        None,
        description="Decimal mark of the numbers; empty: a point that cannot group thousands",
    )
    skip_rows: int = Field(0, ge=0, description="Lines of a CSV file above its header")
    member: str | None = Field(
        None, description="Name of the file to read in an archive that holds several"
    )


class BarsChoice(FileOptions):
    """Which bars a service has: a file of the caller's, or its venue's own."""

    bars_file: str | None = Field(
        None,
        description="A file of bars to use instead of the venue's; an empty text: the venue's own, "
        "where the service has had a file",
    )
    calendar: str | None = Field(
        None,
        description="When the market trades: 24/7, FX or a code of exchange_calendars such as "
        "XNYS; None: that of venue and symbol, or recognised from the file's stamps",
    )
    file_clock: FileClock | None = Field(
        None,
        description="Market time of a file: wall, end (the close of its last bar) or replay; "
        "None: FILE_CLOCK",
    )

    @classmethod
    def read(cls, noted: Mapping[str, Any]) -> BarsChoice:
        """The choice that was noted in the store; a newer release may have noted more."""
        return cls(**{name: noted[name] for name in cls.model_fields if name in noted})

    @property
    def choice(self) -> BarsChoice:
        """The choice without what a subclass adds."""
        return BarsChoice(**{name: getattr(self, name) for name in BarsChoice.model_fields})

    @property
    def file_options(self) -> FileOptions:
        """How the rows of the file are read, without the rest."""
        return FileOptions(**{name: getattr(self, name) for name in FileOptions.model_fields})
