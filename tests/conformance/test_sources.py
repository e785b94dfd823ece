"""What every source does alike. A new source writes a shelf and joins with one line in SHELVES."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
import pytest
from pydantic import SecretStr

from penstock.connections import PostgresConnection
from penstock.contract import Source as SourceSpec
from services.extract.source import Block, Source, SourceBroke, SourceRefused
from services.extract.sources import SOURCES
from tests.builders import database, execute

Row = tuple[str | None, str | None, str | None]
COLUMNS = ("id", "email", "note")


class Shelf(Protocol):
    """A kind of source as the suite needs it: something to put rows on and to read them from."""

    @classmethod
    def made(cls, request: pytest.FixtureRequest) -> AbstractContextManager[Shelf]:
        """On a server that all the tests share."""

    def fill(self, rows: Sequence[Row]) -> None:
        """Rows of `id`, `email` and `note`, in place of those before."""

    def source(self, **spec: Any) -> Source:
        """All that was filled in; by the key `id` unless told otherwise."""

    def wrong_secret(self) -> Source: ...

    def away(self) -> Source:
        """Where nobody answers."""


@dataclass
class PostgresShelf:
    url: str

    @classmethod
    @contextmanager
    def made(cls, request: pytest.FixtureRequest) -> Iterator[PostgresShelf]:
        with database(request.getfixturevalue("postgres_server")) as url:
            execute(url, 'create table people (id text collate "C", email text, note text)')
            yield cls(url)

    def fill(self, rows: Sequence[Row]) -> None:
        with psycopg.connect(self.url, autocommit=True) as db, db.cursor() as cursor:
            cursor.execute("truncate people")
            cursor.executemany("insert into people values (%s, %s, %s)", rows)

    def source(self, url: str | None = None, **spec: Any) -> Source:
        told = SourceSpec(**{"connection": "shelf", "table": "people", "key": "id", **spec})
        connection = PostgresConnection(kind="postgres", url=SecretStr(url or self.url))
        return SOURCES["postgres"](connection, told)

    def wrong_secret(self) -> Source:
        return self.source(self.url.replace("penstock@", "nobody-of-that-name@"))

    def away(self) -> Source:
        return self.source("postgresql://penstock@127.0.0.1:1/away")


SHELVES: dict[str, type[Shelf]] = {"postgres": PostgresShelf}


@pytest.fixture(params=SHELVES, scope="module")
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    with SHELVES[request.param].made(request) as shelf:
        yield shelf


def test_every_source_is_in_this_suite() -> None:
    assert set(SHELVES) == set(SOURCES)


def people(count: int) -> list[Row]:
    return [(f"{n:04}", f"p{n}@example.com", f"row {n}") for n in range(count)]


def blocks(
    source: Source,
    size: int,
    columns: Sequence[str] = (),
    after: str | None = None,
    upto: str | None = None,
) -> list[Block]:
    source.describe(total=False)
    with source.open(columns, after, upto) as reader:
        found = []
        while (block := reader.read(size)) is not None:
            found.append(block)
        assert reader.read(size) is None
        return found


def rows(found: list[Block], *columns: str) -> list[tuple[Any, ...]]:
    wanted = columns or COLUMNS
    return [
        tuple(row[c] for c in wanted)
        for block in found
        for row in block.text({c: c for c in wanted}).to_pylist()
    ]


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize("batches", [0, 1, 2])
@pytest.mark.parametrize("more", [0, 1])
def test_every_row_is_in_one_block_and_blocks_are_full(
    shelf: Shelf, size: int, batches: int, more: int
) -> None:
    shelf.fill(people(size * batches + more))
    found = blocks(shelf.source(), size)
    assert [b.rows for b in found] == [size] * batches + [1] * more
    assert sum(b.rows for b in found) == size * batches + more
    assert all(b.rows == b.text({"id": "id"}).num_rows for b in found)
    assert sorted(rows(found)) == sorted(people(size * batches + more))


def test_the_columns_are_known_before_the_first_row(shelf: Shelf) -> None:
    shelf.fill([])
    assert shelf.source().describe(total=False).columns[: len(COLUMNS)] == COLUMNS


def test_only_what_is_asked_for_is_read_and_the_key(shelf: Shelf) -> None:
    shelf.fill(people(3))
    source = shelf.source()
    found = blocks(source, 2, ["email"])
    assert set(source.selected) == {"email", "id"}
    assert found[0].columns == source.selected
    assert b"row 1" not in found[0].data
    assert rows(found, "email") == [(email,) for _, email, _ in people(3)]


@pytest.mark.parametrize("size", [1, 3, 4, 50])
def test_from_any_block_s_last_key_the_rest_comes_exactly_once(shelf: Shelf, size: int) -> None:
    shelf.fill(people(9))
    source, whole = shelf.source(), []
    found = blocks(source, size)
    for block in found:
        whole += rows([block])
        rest = blocks(source, 4, after=block.last_key)
        assert whole + rows(rest) == people(9)
    assert found[-1].last_key == "0008"


def test_a_range_reads_again_what_a_block_had(shelf: Shelf) -> None:
    shelf.fill(people(10))
    source = shelf.source()
    after = None
    for block in blocks(source, 4):
        (again,) = blocks(source, 4, after=after, upto=block.last_key)
        assert (again.data, again.rows, again.last_key) == (block.data, block.rows, block.last_key)
        after = block.last_key


def test_a_range_whose_rows_are_gone_is_empty(shelf: Shelf) -> None:
    shelf.fill(people(10)[5:])
    assert blocks(shelf.source(), 4, upto="0003") == []


def test_without_a_key_all_is_read_and_no_position_told(shelf: Shelf) -> None:
    shelf.fill(people(5))
    found = blocks(shelf.source(key=None), 2)
    assert [b.last_key for b in found] == [None] * 3
    assert sorted(rows(found)) == people(5)


NASTY: list[Row] = [
    ("0", None, ""),
    ("1", "", None),
    ("2", 'say "hi", twice', "two\nlines\r\nand, three"),
    ("3", "Valéry 정 😀", "  spaces  "),
    ("4", "NULL", "\\N"),
    ("5", "\\.", "back\\slash\ttab"),
    ("6", "'; drop table people; --", "%s %(x)s %"),
    ("7", "é" * 100_000, "x" * 200_000),
    ("ключ, 'quoted' \"key\" \\", "last", None),
]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_any_text_comes_as_it_is_and_null_is_not_empty(shelf: Shelf, size: int) -> None:
    shelf.fill(NASTY)
    source = shelf.source()
    found = blocks(source, size)
    assert sorted(rows(found)) == sorted(NASTY)
    assert rows(blocks(source, size, after="7")) == NASTY[-1:]
    assert rows(blocks(source, size, after="7", upto=NASTY[-1][0])) == NASTY[-1:]
    assert blocks(source, size, after=NASTY[-1][0]) == []


def test_a_column_of_nothing_keeps_its_rows(shelf: Shelf) -> None:
    shelf.fill([(None, None, None), (None, "", None), (None, None, None)])
    found = blocks(shelf.source(key=None), 10, ["email"])
    assert [b.rows for b in found] == [3]
    assert sorted(rows(found, "email"), key=str) == [("",), (None,), (None,)]


def test_one_column_under_two_names(shelf: Shelf) -> None:
    shelf.fill(people(1))
    (block,) = blocks(shelf.source(), 5)
    assert block.text({"external_id": "id", "city": "id"}).to_pylist() == [
        {"external_id": "0000", "city": "0000"}
    ]
    assert Block.empty(block.columns).text({"email": "email"}).num_rows == 0


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_key_with_nulls_is_refused(shelf: Shelf, size: int) -> None:
    shelf.fill([*people(6), (None, "x", "y")])
    with pytest.raises(SourceRefused, match=r"'id' has NULL or empty values.*NOT NULL column"):
        blocks(shelf.source(), size)


def test_a_key_with_nulls_is_refused_by_who_goes_on_too(shelf: Shelf) -> None:
    """Those rows come after every key: they would be left out without a word."""
    shelf.fill([*people(6), (None, "x", "y")])
    with pytest.raises(SourceRefused, match="NULL or empty"):
        blocks(shelf.source(), 100, after="0003")


@pytest.mark.parametrize("size", [1, 3])
def test_a_key_that_is_not_unique_is_refused(shelf: Shelf, size: int) -> None:
    shelf.fill(sorted([*people(6), ("0002", "twice", "")], key=str))
    with pytest.raises(SourceRefused, match=r"'id' is not unique.*Choose a unique column"):
        blocks(shelf.source(), size)


def test_who_may_not_sign_in_is_refused(shelf: Shelf) -> None:
    with pytest.raises(SourceRefused, match="Connection 'shelf' cannot sign in"):
        shelf.wrong_secret().describe(total=True)


def test_who_does_not_answer_may_do_so_later(shelf: Shelf) -> None:
    with pytest.raises(SourceBroke, match="'shelf' does not answer"):
        shelf.away().describe(total=True)


@pytest.mark.parametrize("how", ["exact", "estimate", "none"])
def test_the_total_is_told_as_asked(shelf: Shelf, how: str) -> None:
    shelf.fill(people(50))
    found = shelf.source(total=how).describe(total=True)
    assert found.total_is_exact == (how == "exact")
    if how == "exact":
        assert found.total == 50
    if how == "none":
        assert found.total is None
    assert shelf.source(total=how).describe(total=False).total is None


def test_a_source_is_opened_any_number_of_times(shelf: Shelf) -> None:
    shelf.fill(people(3))
    source = shelf.source()
    source.describe(total=False)
    with source.open((), None) as first, source.open((), None) as second:
        assert first.read(2) == second.read(2)
        assert first.read(2) == second.read(2)
