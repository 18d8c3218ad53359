"""A CSV file is read in each of its forms, or refused with its line, column and argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.data.bar_columns import COLUMNS
from mlops.data.file_options import FileOptions
from mlops.data.numbers import parse_numbers
from mlops.data.sources import csv_tables
from mlops.data.sources.archives import open_content
from mlops.data.sources.csv_header import read_header
from mlops.data.sources.files import FileSource
from mlops.errors import BarsError, SourceError
from mlops.service import Timeframe

HEADER = "time,open,high,low,close,volume\n"
ROW = "2024-07-01T09:00Z,1.5,2,1,1.75,10\n"


def fetch(folder: Path, content: str | bytes, **options: Any) -> pd.DataFrame:
    path = folder / "bars.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return FileSource(path=path, **options).fetch("BTC/USD", Timeframe("1h"))


def test_arguments_of_file_options_are_taken_singly_and_refused_by_name() -> None:
    whole = FileOptions(stamps="close", decimal=",")
    assert FileSource(path="a", options=whole, decimal=".").options.decimal == "."
    with pytest.raises(SourceError, match=r"FileSource\(stamps='middle'\)"):
        FileSource(path="a", stamps="middle")
    with pytest.raises(SourceError, match=r"FileSource\(seperator=';'\)"):
        FileSource(path="a", seperator=";")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_recognised_from_the_header(tmp_path: Path, separator: str) -> None:
    read = fetch(tmp_path, (HEADER + ROW).replace(",", separator))
    assert read[list(COLUMNS)].iloc[0].tolist() == [1.5, 2, 1, 1.75, 10]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_and_encodings_are_recognised(
    tmp_path: Path, line_end: str, encoding: str
) -> None:
    text = ("vendor\n\n" + HEADER + "\n" + ROW + "\n").replace("\n", line_end)
    assert len(fetch(tmp_path, text.encode(encoding), skip_rows=1)) == 1


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (HEADER + ROW.replace("10\n", "10"), {}),
        ("time,open,high,low,close,volume,\n2024-07-01T09:00Z,1.5,2,1,1.75,10,\n", {}),
        (HEADER + '"2024-07-01T09:00Z","1.5","2","1","1.75","10"\n', {}),
        (HEADER + "2024-07-01T09:00Z, +1.5 ,2.0e0, 1,1.75,$10\n", {}),
        ("t;o;h;l;c;v\n2024-07-01T09:00Z;1,5;2;1;1,75;10\n", {
            "decimal": ",", "time_column": "t",
            "columns": {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"},
        }),
        ("1719824400000,1.5,2,1,1.75,10\n", {
            "columns": dict(zip("012345", ("open_time", *COLUMNS), strict=True)),
        }),
        ("<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<VOL>\n"
         "2024.07.01\t09:00\t1.5\t2\t1\t1.75\t10\n", {
            "columns": {"<VOL>": "volume"}, "time_column": "Date+Time", "timezone": "UTC",
        }),
        (HEADER + "01|07|2024 9,1.5,2,1,1.75,10\n", {
            "time_format": "%d|%m|%Y %H", "timezone": "UTC",
        }),
    ],
)  # fmt: skip
def test_forms_that_say_the_same_are_read_alike(
    tmp_path: Path, text: str, options: dict[str, Any]
) -> None:
    read = fetch(tmp_path, text, **options)
    assert read.index.tolist() == [pd.Timestamp("2024-07-01T09:00Z")]
    assert read[list(COLUMNS)].iloc[0].tolist() == [1.5, 2, 1, 1.75, 10]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("not a table\n", {}, "is one cell, 'not a table'; pass separator= or skip_rows="),
        ("# by vendor\n" + HEADER + ROW, {}, "pass skip_rows=1, for line 2 names the columns"),
        ("# by, vendor\n" + HEADER + ROW, {}, "pass skip_rows=1, for line 2 names the columns"),
        ("a,b;c\n" + ROW, {}, r"two ways; pass separator=',' \(2 columns\) or separator=';'"),
        (HEADER + ROW, {"separator": "::"}, "no single character"),
        (HEADER + ROW, {"decimal": ","}, "is the decimal mark too"),
        (HEADER + ROW, {"skip_rows": 9}, "no header line below skip_rows=9; it has 2 line"),
        (HEADER + ROW, {"columns": {"Vol": "volume"}}, "renames 'Vol', which is no column"),
        (ROW, {}, r"has no header.*columns=\{'0': 'open_time', '1': 'open', ...\}"),
        ("time,o,high,low,close,volume\n" + ROW, {}, r"'open' is missing in line 1.*pass columns="),
        ("time,time,open,high,low,close,volume\nx\n", {}, "'time' occurs twice, at 1 and 2"),
        (HEADER + ROW * 3 + ROW[:-4], {}, "line 5 has 5; it ends within its last line"),
        (HEADER + ROW + "\n" + ROW[:-1] + ",7,8\n" + ROW, {}, "line 4 has 8; correct or"),
        (HEADER + ROW * 3 + "by the vendor\n", {}, "line 5 has 1; correct or remove these lines"),
        (HEADER + ROW + "  \n" + ROW, {}, "line 3 has 1"),
        (HEADER + ROW.replace("1.75", "1,75"), {}, "line 2 has 7"),
        ("time;open;high;low;close;volume\n2024-07-01T09:00Z;1,5;2;1;1;9\n", {},
         "column 'open': .*'1,5', in row 0 .*pass decimal=','"),
        ("time;open;high;low;close;volume\n2024-07-01T09:00Z;1,500;2;1;1;9\n", {},
         "pass decimal=',' if that is the decimal mark, or write thousands"),
        (HEADER + ROW + ROW.replace("10", "10%"), {}, "column 'volume': .*'10%', in row 1"),
        (HEADER + ROW + ROW.replace("1.75", "1.2K"), {}, "column 'close': .*'1.2K', in row 1"),
    ],
)  # fmt: skip
def test_what_can_be_read_two_ways_or_none_is_refused_with_its_argument(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BarsError, match=message):
        fetch(tmp_path, text, **options)


NOTED = HEADER.replace("\n", ",note\n")


def write_noted_rows(notes: dict[int, str], count: int, line_end: str = "\n") -> str:
    """A file of one-minute bars, each with a note; those at ``notes`` have another one."""
    rows = [
        f"{1_704_067_200 + 60 * number},1.5,2,1,1.75,10,{notes.get(number, 'x')}\n"
        for number in range(count)
    ]
    return (NOTED + "".join(rows)).replace("\n", line_end)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("place", [0, 50, 98, 99])
def test_a_quote_left_open_is_refused_with_its_line_and_swallows_no_row(
    tmp_path: Path, place: int, line_end: str
) -> None:
    text = write_noted_rows({place: '"pipe'}, 100, line_end)
    with pytest.raises(BarsError, match=rf"line {place + 2} ends within the quoted cell '\"pipe'"):
        fetch(tmp_path, text)


@pytest.mark.parametrize("place", [10, 20_000, 39_990])
def test_a_quote_left_open_is_found_in_any_block_of_a_large_file(
    tmp_path: Path, place: int
) -> None:
    text = write_noted_rows({place: '"pipe'}, 40_000)
    assert len(text) > 1 << 20
    with pytest.raises(BarsError, match=rf"line {place + 2:,} ends within the quoted cell"):
        fetch(tmp_path, text)


@pytest.mark.parametrize("cell", ['"two\nlines"', '"1.75'])
def test_a_cell_of_two_lines_is_refused_with_its_first_line(tmp_path: Path, cell: str) -> None:
    text = NOTED + "2024-07-01T09:00Z,1.5,2,1,1.75,10,x\n2024-07-01T10:00Z,1.5,2,1,"
    text += f"{cell},10,x\n2024-07-01T11:00Z,1.5,2,1,1.75,10,x\n"
    with pytest.raises(BarsError, match="line 3 ends within the quoted cell"):
        fetch(tmp_path, text)


def test_a_quote_within_a_cell_and_one_in_the_header_open_nothing(tmp_path: Path) -> None:
    text = write_noted_rows({5: '5" pipe', 6: '"a ""b"" c"', 7: '"a, b"'}, 10)
    for banner in ("", '# made by "us\n'):
        read = fetch(tmp_path, banner + text.replace("note", '"note'), skip_rows=len(banner[:1]))
        assert len(read) == 10


@pytest.mark.parametrize("place", ["header", "row"])
def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path, place: str) -> None:
    wide = "währung," + HEADER if place == "header" else "note," + HEADER
    text = wide + "a," + ROW + "ü," + ROW
    line = 1 if place == "header" else 3
    with pytest.raises(BarsError, match=rf"not UTF-8: byte 0x.. in line {line}; save the file"):
        fetch(tmp_path, text.encode("latin-1"))


NUMBERS = st.one_of(
    st.floats(1, 1e6).map(repr), st.floats(1, 1e6).map("{:.2f}".format), st.integers(1, 10**9)
)
ODD_NUMBERS = ["1.", ".5", "007.5", "1e5", "1E+05", " 2.5 ", '"3.5"', "+4", "1 000", "$5", "nan",
               "", "0x10", "1_000", "1d5", "inf", "1e400", "true", "1,5", "1'000.5", "٣", "-0",
               "0.1000000000000000055511151231257827"]  # fmt: skip
TIME_FORMS = [
    "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:00Z", "%Y-%m-%d %H:%M:00+0100", "%d.%m.%Y %H:%M", "%Y-%m-%d",
    "%s", "%s000", "%s.5", "%Y%m%d",
]  # fmt: skip
ODD_TIMES = ["2024-01-01T00:00Z", "2024-01-01 00", "2024-01-01", "1704067200", "1704067200.5",
             "0x60000000", "01704067200", "20240131", "2024-01-01 24:00:00", "2024-13-01 00:00",
             "", "null", " 2024-01-01 00:00:00 "]  # fmt: skip


START = pd.Timestamp("2024-01-01", tz="UTC")


@st.composite
def files(draw: st.DrawFn) -> str:
    """The text of a file of a few rows, of which one cell may be odd."""
    count = draw(st.integers(1, 4))
    form = draw(st.sampled_from(TIME_FORMS))
    times = [(START + pd.Timedelta(minutes=number)).strftime(form) for number in range(count)]
    rows = [[time, *(str(draw(NUMBERS)) for _ in COLUMNS)] for time in times]
    if draw(st.booleans()):
        place = draw(st.integers(0, len(COLUMNS)))
        odd = draw(st.sampled_from(ODD_NUMBERS if place else ODD_TIMES))
        rows[draw(st.integers(0, count - 1))][place] = odd
    return HEADER + "".join(f"{','.join(row)}\n" for row in rows)


def read_both_ways(path: Path) -> list[pd.DataFrame | str]:
    """The rows as Arrow reads them at once and as text, or why they are refused."""
    results: list[pd.DataFrame | str] = []
    plan = csv_tables._plan_types
    for planned in (plan, lambda *_: {}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(csv_tables, "_plan_types", planned)
            try:
                source = FileSource(path=path, timezone="UTC")
                results.append(source.fetch("BTC/USD", Timeframe("1m"))[list(COLUMNS)])
            except BarsError as error:
                results.append(str(error))
    return results


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=files())
def test_numbers_read_at_once_and_from_text_are_the_same(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bars.csv"
    path.write_text(text)

    at_once, from_text = read_both_ways(path)
    if isinstance(at_once, str) or isinstance(from_text, str):
        # A cell that text refuses may be a missing number in a typed column, checked later.
        if isinstance(at_once, str):
            assert isinstance(from_text, str)
        else:
            assert not np.isfinite(at_once.to_numpy()).all()
    else:
        pd.testing.assert_frame_equal(at_once, from_text, check_exact=True)


def test_the_same_plan_is_made_of_usual_files(tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    for cell, kind in [
        ("2024-07-01 09:00:00", "timestamp[ns]"), ("2024-07-01T09:00:00Z", "timestamp[ns, tz=UTC]"),
        ("1719824400000", "double"), ("07/01/2024", "string"),
    ]:  # fmt: skip
        path.write_text(HEADER + f"{cell},1,1,1,1,1\n")
        header = read_header(open_content(path), FileOptions())
        types = csv_tables._plan_types(header, FileOptions())
        assert [str(types[name]) for name in header.names] == [kind, *["double"] * 5]


@pytest.mark.parametrize(
    ("cells", "decimal", "expected"),
    [
        (["1,234.5", "1,234", "999"], ".", [1234.5, 1234, 999]),
        (["1,234,567", "1,234"], ".", [1234567, 1234]),
        (["1.234,5", "1.234", "7"], ",", [1234.5, 1234, 7]),
        (["1 234.5", "1\u00a0234", "1'234"], ".", [1234.5, 1234, 1234]),
        (["€1.5", "1.5 $", "- £2"], ".", [1.5, 1.5, -2]),
        (["1.2K", "3M", "0.5 B"], ".", [1200, 3e6, 5e8]),
    ],
)
def test_numbers_that_have_one_reading_are_parsed(
    cells: list[str], decimal: Any, expected: list[float]
) -> None:
    values = pd.Series(cells, name="volume")
    assert parse_numbers(values, np.arange(len(cells)), decimal=decimal).tolist() == expected


@pytest.mark.parametrize("cell", ["1,234", "1,5", "1.2.3", "12%", "5 apples", "1,23,456", "--1"])
def test_numbers_that_have_two_readings_or_none_are_refused(cell: str) -> None:
    with pytest.raises(BarsError, match="text where a number belongs"):
        parse_numbers(pd.Series(["1", cell], name="volume"), np.arange(2))
    assert parse_numbers(pd.Series(["1", cell], name="volume"), np.arange(1))[0] == 1


YAHOO = (
    "Price,Close,High,Low,Open,Volume\nTicker,BTC-USD,BTC-USD,BTC-USD,BTC-USD,BTC-USD\n"
    "Datetime,,,,,\n2024-07-01 09:00:00+00:00,1.75,2,1,1.5,10\n"
)
DOWNLOAD = (
    "https://www.example.com\nunix,symbol,open,high,low,close,Volume BTC\n"
    "1719824400,BTC/USD,1.5,2,1,1.75,10\n"
)
TRADER = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\n" + (
    "2024.07.01\t09:00\t1.5\t2\t1\t1.75\t10\t0\n"
)


@pytest.mark.parametrize(
    ("text", "told", "options"),
    [
        (YAHOO, "pass skip_rows=3 and columns={'0': 'open_time', '1': 'close', ", {
            "skip_rows": 3,
            "columns": dict(
                zip("012345", ("open_time", "close", "high", "low", "open", "volume"), strict=True)
            ),
        }),
        (DOWNLOAD, "pass skip_rows=1, for line 2 names the prices of bars", {
            "skip_rows": 1, "columns": {"Volume BTC": "volume"},
        }),
        (DOWNLOAD[24:], "pass columns={'Volume BTC': 'volume'} if that is", {
            "columns": {"Volume BTC": "volume"},
        }),
        *((TRADER, "got DATE, TIME, OPEN, HIGH, LOW, CLOSE, TICKVOL, VOL; pass columns={'TICKVOL'",
           {"columns": {name: "volume"}, "time_column": "DATE+TIME", "timezone": "UTC"})
          for name in ("<TICKVOL>", "TICKVOL", "tickvol")),
    ],
)  # fmt: skip
def test_the_remedy_of_a_refused_vendor_file_reads_it(
    tmp_path: Path, text: str, told: str, options: dict[str, Any]
) -> None:
    with pytest.raises(BarsError) as caught:
        fetch(tmp_path, text)
    assert told in str(caught.value)
    read = fetch(tmp_path, text, **options)
    assert read.index.tolist() == [pd.Timestamp("2024-07-01T09:00Z")]
    assert read[list(COLUMNS)].iloc[0].tolist() == [1.5, 2, 1, 1.75, 10]


@pytest.mark.parametrize("name", ["ticker", "spread"])
def test_a_file_without_volume_is_told_to_add_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(BarsError, match="if the file has no volume, add a column of it"):
        fetch(tmp_path, f"{name},time,open,high,low,close\nX,2024-07-01T09:00Z,1,1,1,1\n")


@pytest.mark.parametrize("volumes", [("1.000", "2.500"), ("999", "1.250.000"), ("0", "7")])
@pytest.mark.parametrize("price", ["42.000", "151.234"])
def test_points_that_may_group_thousands_ask_for_the_decimal_mark(
    tmp_path: Path, price: str, volumes: tuple[str, str]
) -> None:
    text = HEADER.replace(",", ";") + "".join(
        f"2024-07-01T{9 + number}:00Z;{price};{price};{price};{price};{volume}\n"
        for number, volume in enumerate(volumes)
    )
    with pytest.raises(BarsError, match=rf"'{price}'; pass decimal=',' if .* or decimal='\.' if"):
        fetch(tmp_path, text)
    read = fetch(tmp_path, text, decimal=",")
    assert read["open"].tolist() == [float(price.replace(".", ""))] * 2
    assert read["volume"].tolist() == [float(volume.replace(".", "")) for volume in volumes]


@pytest.mark.parametrize(("options", "tail"), [({"decimal": "."}, ""), ({}, "5"), ({}, "\n")])
def test_points_that_group_nothing_are_decimal_marks(
    tmp_path: Path, options: dict[str, Any], tail: str
) -> None:
    row = f"2024-07-01T09:00Z;42.125{tail.strip()};43;42;42.5;7\n"
    separator = "," if tail == "\n" else ";"
    text = (HEADER.replace(",", ";") + row).replace(";", separator)
    assert fetch(tmp_path, text, **options)["open"].tolist() == [float(f"42.125{tail}")]
