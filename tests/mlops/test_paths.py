"""A path means one place, whatever characters it has and whichever URL carries it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from mlops.paths import expand_path, expand_url, path_of, require_utf8, sqlite_url
from mlops.registry.tracking import resolve_tracking_uri
from mlops.store import open_store
from mlops.store.connect import find_database_file, make_engine
from tests.awkward import NAMES

HOME = {"HOME": "/home/ann", "DATA": "/srv/data", "EMPTY": ""}
names = st.text(st.characters(exclude_characters="/\x00", exclude_categories=("Cs",)), min_size=1)
folders = names.filter(lambda name: name not in (".", "..")).map(lambda name: Path("/data", name))


@given(folders)
def test_a_file_uri_names_the_path_it_was_made_of(folder: Path) -> None:
    assert path_of(folder.as_uri()) == folder


@given(folders, st.sampled_from(["", "timeout=5", "uri=true", "uri=1&mode=rw"]))
def test_an_sqlite_url_names_the_path_it_was_made_of(folder: Path, query: str) -> None:
    assert find_database_file(sqlite_url(folder / "x.db", query)) == folder / "x.db"


@given(folders)
def test_a_resolved_tracking_uri_is_resolved_to_itself(folder: Path) -> None:
    location = resolve_tracking_uri(folder.as_uri())
    assert location.artifacts == folder / "artifacts"
    assert location.database == folder / "mlflow.db"
    again = resolve_tracking_uri(location.uri)
    assert (again.uri, again.artifacts) == (location.uri, location.artifacts)


@pytest.mark.parametrize("name", NAMES)
def test_an_sqlite_url_opens_the_file_of_its_path(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "x.db"
    engine = make_engine(sqlite_url(path), 1.0)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (x)"))
    engine.dispose()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]


def test_a_plain_path_has_the_url_that_it_always_had() -> None:
    assert sqlite_url(Path("/data/store.db")) == "sqlite:////data/store.db"
    assert sqlite_url(Path("/a b/100%/#1.db")) == "sqlite:////a b/100%/#1.db"


def test_a_store_lies_at_the_path_of_a_file_uri_in_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "what?" / "store.db"
    with closing(open_store(f"sqlite:///{path.as_uri()}?uri=true&mode=rwc")) as store:
        assert store.file is not None
        assert store.file.path == str(path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["what?"]


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("~", os.path.expanduser("~")),
        ("~/mlops", os.path.expanduser("~/mlops")),
        ("~root/x", os.path.expanduser("~root/x")),
        ("$HOME/mlops", "/home/ann/mlops"),
        ("${HOME}/mlops", "/home/ann/mlops"),
        ("$DATA", "/srv/data"),
        ("/mnt/$DATA/x${DATA}", "/mnt//srv/data/x/srv/data"),
        ("./~/x", "./~/x"),
        ("/data/a~b/~", "/data/a~b/~"),
        ("/data/5$/$5/x$", "/data/5$/$5/x$"),
        ("team#1/q?x=1/%20", "team#1/q?x=1/%20"),
        (".mlops", ".mlops"),
    ],
)
def test_a_home_and_variables_are_replaced(text: str, expanded: str) -> None:
    assert expand_path(text, HOME) == expanded


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("$NOPE/x", "'NOPE'"),
        ("/data/${NOPE}", "'NOPE'"),
        ("${}/x", "''"),
        ("$EMPTY/x", "'EMPTY'"),
        ("~nobody_has_this_name/x", "~nobody_has_this_name"),
    ],
)
def test_a_variable_or_user_that_there_is_not_is_named(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        expand_path(text, HOME)


def test_a_dollar_sign_in_the_name_of_a_folder_that_is_there_is_a_dollar_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a$HOME" / "b$NOPE"
    folder.mkdir(parents=True)
    assert expand_path(f"{folder}/x/y", HOME) == f"{folder}/x/y"
    url = sqlite_url(folder / "x.db")
    assert expand_url(url, HOME) == url
    monkeypatch.chdir(tmp_path)
    Path("$HOME").mkdir()
    assert expand_path("$HOME/mlops", HOME) == "/home/ann/mlops"


@pytest.mark.parametrize(
    ("url", "expanded"),
    [
        ("$DATA/mlruns", "/srv/data/mlruns"),
        ("file:$DATA/mlruns", "file:///srv/data/mlruns"),
        ("file://$DATA/mlruns", "file:///srv/data/mlruns"),
        ("file:///$DATA/mlruns", "file:///srv/data/mlruns"),
        ("sqlite:///$DATA/x.db", "sqlite:////srv/data/x.db"),
        ("sqlite:////$DATA/x.db?timeout=5", "sqlite:////srv/data/x.db?timeout=5"),
        ("sqlite:///~root/x.db", f"sqlite:///{os.path.expanduser('~root')}/x.db"),
        ("file:///~root/x", f"file://{os.path.expanduser('~root')}/x"),
        ("file://~root/x", f"file://{os.path.expanduser('~root')}/x"),
        ("sqlite:///file:$DATA/x.db?uri=true", "sqlite+pysqlite:///file:///srv/data/x.db?uri=true"),
        ("sqlite:////data/team#1/100%/x.db", "sqlite:////data/team#1/100%/x.db"),
        ("sqlite:///x.db", "sqlite:///x.db"),
        ("file://localhost/data", "file://localhost/data"),
        ("http://ann:$DATA@~/x", "http://ann:$DATA@~/x"),
        ("postgresql://ann:$NOPE@db/~", "postgresql://ann:$NOPE@db/~"),
        ("", ""),
    ],
)
def test_in_a_url_the_path_alone_is_expanded(url: str, expanded: str) -> None:
    assert expand_url(url, HOME) == expanded


@pytest.mark.parametrize("url", ["file://mlruns", "file://./mlruns", "file://server/data"])
def test_a_file_uri_of_another_machine_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="write file:///absolute/path"):
        expand_url(url, HOME)


@pytest.mark.parametrize("url", ["sqlite:x.db", "sqlite:/data/x.db", "sqlite://~/x.db"])
def test_an_sqlite_url_without_three_slashes_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="three slashes"):
        expand_url(url, HOME)


def test_a_variable_with_characters_of_urls_is_a_path(tmp_path: Path) -> None:
    odd = {"DATA": str(tmp_path / "a?b#c%20d")}
    url = expand_url("sqlite:///$DATA/x.db", odd)
    assert find_database_file(url) == tmp_path / "a?b#c%20d" / "x.db"
    assert path_of(expand_url("file://$DATA/x", odd)) == tmp_path / "a?b#c%20d" / "x"


def test_a_path_that_is_no_utf8_is_refused() -> None:
    require_utf8(Path("/data/ü/币安"))
    with pytest.raises(ValueError, match=r"b'/data/\\xfc' has bytes that are not UTF-8"):
        require_utf8(Path(os.fsdecode(b"/data/\xfc")))
