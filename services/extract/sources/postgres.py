"""Postgres: any SELECT or table, streamed by COPY in a read-only transaction.

COPY writes CSV at the server, and libpq hands over one row a call, so that a batch has exactly its
rows without a byte being parsed here.
"""

from __future__ import annotations

import csv
import io
import json
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg import ClientCursor, pq, sql

from penstock.connections import PostgresConnection
from penstock.contract import Source as SourceSpec
from penstock.contract import TypedParam
from services.extract.source import Block, Description, SourceBroke, SourceRefused
from services.extract.sources.postgres_errors import explain

_SETUP = """
    begin transaction isolation level repeatable read read only;
    set local statement_timeout = 0;
    set local lock_timeout = '60s';
    set local idle_in_transaction_session_timeout = 0;
    set local timezone = 'UTC';
    set local datestyle = 'ISO, YMD';
    set local intervalstyle = 'iso_8601';
    set local bytea_output = 'hex';
    select set_config(name, '0', true) from pg_settings where name = 'transaction_timeout'
"""
# statement_timeout counts the whole time a COPY is open, the time a slow lane makes us wait
# included; the idle timeout likewise, and Postgres 17's transaction_timeout. SET LOCAL, for a
# pooler in transaction mode keeps to it.

csv.field_size_limit(2**30)  # as long as Postgres' longest value; Python's own limit is 128 KiB


class PostgresSource:
    def __init__(self, connection: PostgresConnection, spec: SourceSpec) -> None:
        self._url = connection.url.get_secret_value()
        self._spec = spec
        self.selected: tuple[str, ...] = ()
        self._columns: tuple[str, ...] = ()
        self._conn: psycopg.Connection[Any] | None = None

    def describe(self, *, total: bool) -> Description:
        with self._connected() as conn:
            base = self._base(conn)
            # `binary` means the extended protocol, which takes one statement and no second.
            probe = conn.execute(sql.SQL("select * from {} limit 0").format(base), binary=True)
            self._columns = tuple(c.name for c in probe.description or ())
            count, exact = None, False
            if total and self._spec.total == "exact":
                row = conn.execute(
                    sql.SQL("select count(*) from {}").format(base), binary=True
                ).fetchone()
                count, exact = (int(row[0]) if row else None), True
            elif total and self._spec.total == "estimate":
                row = conn.execute(
                    sql.SQL("explain (format json) select * from {}").format(base), binary=True
                ).fetchone()
                plan = row[0] if row else None
                plan = json.loads(plan) if isinstance(plan, str) else plan
                count = int(plan[0]["Plan"]["Plan Rows"]) if plan else None
        return Description(self._columns, count, exact)

    @contextmanager
    def open(
        self, columns: Sequence[str], after: str | None, upto: str | None = None
    ) -> Iterator[_CopyReader]:
        with self._connected() as conn:
            query, self.selected = self._query(conn, columns, after, upto)
            key = self._spec.key
            if key is not None and after is not None and upto is None:
                self._refuse_nulls(conn, key)
            reader = _CopyReader(
                conn.pgconn, self.selected, self.selected.index(key) if key else None, key
            )
            reader.start(query)
            yield reader

    def _refuse_nulls(self, conn: psycopg.Connection[Any], key: str) -> None:
        """Rows without a key sort last: who goes on after a key would never come to them."""
        found = conn.execute(
            sql.SQL("select 1 from {} where {} is null limit 1").format(
                self._base(conn), sql.Identifier(key)
            ),
            binary=True,
        ).fetchone()
        if found:
            raise SourceRefused(_NULL_KEY.format(key))

    def _query(
        self,
        conn: psycopg.Connection[Any],
        columns: Sequence[str],
        after: str | None,
        upto: str | None,
    ) -> tuple[bytes, tuple[str, ...]]:
        key = self._spec.key
        wanted = list(columns) or list(self._columns)
        if key is not None and key not in wanted:
            wanted.append(key)
        what = sql.SQL(", ").join(map(sql.Identifier, wanted)) if columns else sql.SQL("*")
        query = sql.SQL("select {} from {}").format(what, self._base(conn))
        if key is not None:
            # A bare literal takes the key's own type, whatever that is.
            bounds = [
                sql.SQL("{} {} {}").format(sql.Identifier(key), sql.SQL(sign), sql.Literal(value))
                for sign, value in ((">", after), ("<=", upto))
                if value is not None
            ]
            if bounds:
                query += sql.SQL(" where ") + sql.SQL(" and ").join(bounds)
            query += sql.SQL(" order by {}").format(sql.Identifier(key))
        copy = sql.SQL("copy ({}) to stdout (format csv)").format(query)
        return copy.as_bytes(conn), tuple(wanted)

    def _base(self, conn: psycopg.Connection[Any]) -> sql.Composable:
        if self._spec.table is not None:
            return sql.SQL("{} as penstock_source").format(
                sql.Identifier(*self._spec.table.split("."))
            )
        query = (self._spec.query or "").strip().rstrip(";")
        if self._spec.params:
            values = {
                name: value.python() if isinstance(value, TypedParam) else value
                for name, value in self._spec.params.items()
            }
            try:
                query = ClientCursor(conn).mogrify(query, values)
            except (psycopg.ProgrammingError, KeyError, TypeError) as exc:
                raise SourceRefused(
                    f"The query's parameters do not fit: {str(exc).strip(chr(39))}. Write %(name)s "
                    "for a parameter and %% for a percent sign."
                ) from None
            except psycopg.DataError:
                raise SourceRefused(
                    "The query's parameters do not fit: one has a value that Postgres has no form "
                    "for, such as text with a NUL."
                ) from None
        # The line break ends a comment that the query may end with.
        return sql.SQL("(" + query.replace("\x00", "") + "\n) as penstock_source")

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        with _connected(self._url, self._spec.connection, self._literals()) as conn:
            self._conn = conn
            yield conn

    def interrupt(self) -> None:
        conn = self._conn
        if conn is not None and not conn.closed:
            conn.cancel_safe(timeout=10)

    def _literals(self) -> dict[str, str]:
        """What of an error's text is a parameter's value, and the name to put in its place."""
        values = {
            name: value.value if isinstance(value, TypedParam) else value
            for name, value in self._spec.params.items()
        }
        quoted = {
            name: "'" + value.replace("'", "''") + "'"
            for name, value in values.items()
            if isinstance(value, str)
        }
        return {
            text: f"%({name})s"
            for name, literal in quoted.items()
            for text in (literal, literal.replace("\\", "\\\\"))
        }


@contextmanager
def _connected(
    url: str, connection: str | None, literals: dict[str, str] | None = None
) -> Iterator[psycopg.Connection[Any]]:
    try:
        with closing(
            psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=15,
                application_name="penstock-extract",
                client_encoding="UTF8",
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=6,
            )
        ) as conn:
            for statement in _SETUP.split(";"):
                conn.execute(statement)
            yield conn
    except psycopg.Error as exc:
        raise explain(exc, connection, literals) from None


class _CopyReader:
    """Rows of one COPY. Not psycopg's own `copy()`: that costs three times as much a row."""

    def __init__(
        self, pgconn: pq.abc.PGconn, columns: tuple[str, ...], key_at: int | None, key: str | None
    ) -> None:
        self._pgconn = pgconn
        self._columns = columns
        self._key_at = key_at
        self._key = key
        self._next: bytes | None = None  # the row after the last block
        self._ended = False

    def start(self, query: bytes) -> None:
        # The extended protocol takes one statement and no second.
        self._pgconn.send_query_params(query, None)
        while self._pgconn.flush():  # a long query is more than a socket takes at once
            self._poll(select.POLLIN | select.POLLOUT)
            self._pgconn.consume_input()
        self._wait(lambda: not self._pgconn.is_busy())
        result = self._pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_OUT:
            raise self._error(result)
        self._next = self._row()

    def read(self, rows: int) -> Block | None:
        if self._next is None:
            return None
        # Written out row by row: to keep the rows and join them at the end takes twice the CPU.
        data = io.BytesIO()
        write, get = data.write, self._pgconn.get_copy_data
        last: Any = self._next
        row: Any
        write(last)
        count = 1
        while count < rows:
            size, row = get(1)
            if size <= 0:
                row = self._row(size)
                if row is None:
                    break
            write(row)
            last = row
            count += 1
        self._next = None if self._ended else self._row()
        last_key = self._checked_key(bytes(last)) if self._key_at is not None else None
        return Block(data.getvalue(), count, last_key, self._columns)

    def _row(self, size: int | None = None) -> bytes | None:
        """One row, waiting for it; None at the end, whose result is looked at."""
        row: Any = None
        if size is None:
            size, row = self._pgconn.get_copy_data(1)
        while size == 0:
            self._wait()
            size, row = self._pgconn.get_copy_data(1)
        if size > 0:
            return bytes(row)
        self._ended = True
        if size == -1:
            result = self._pgconn.get_result()
            if result is not None and result.status == pq.ExecStatus.COMMAND_OK:
                return None
            raise self._error(result)
        raise self._error(None)

    def _wait(self, done: Callable[[], bool] | None = None) -> None:
        while done is None or not done():
            self._poll(select.POLLIN)
            self._pgconn.consume_input()
            if done is None:
                return

    def _poll(self, events: int) -> None:
        # Not select(): that knows no socket above 1023.
        poll = select.poll()
        poll.register(self._pgconn.socket, events)
        poll.poll()

    def _checked_key(self, line: bytes) -> str:
        key = self._value(line)
        if key == "":
            # They sort last, so the last row shows them.
            raise SourceRefused(_NULL_KEY.format(self._key))
        if self._next is not None and self._value(self._next) == key:
            raise SourceRefused(
                f"The key column {self._key!r} is not unique: a job that goes on after a crash "
                "would lose rows that share a key. Choose a unique column."
            )
        return key

    def _value(self, line: bytes) -> str:
        row = next(csv.reader([bytes(line).decode()]))
        return row[self._key_at or 0]

    def _error(self, result: pq.abc.PGresult | None) -> Exception:
        if result is None:
            return SourceBroke("The source's database broke off the stream.")
        return psycopg.errors.error_from_result(result)


_NULL_KEY = (
    "The key column {!r} has NULL or empty values: a job that goes on after a crash would lose "
    "those rows. Choose a NOT NULL column, or filter them out."
)


def check(connection: PostgresConnection) -> str:
    """For `penstock doctor`, which names the connection beside what is said here."""
    with _connected(connection.url.get_secret_value(), None) as conn:
        conn.execute("select 1")
    return "signed in and read"
