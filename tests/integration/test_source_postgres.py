"""What is Postgres' own: types, parameters, its errors, and its limits on time."""

from __future__ import annotations

import json
import resource
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from penstock.connections import PostgresConnection
from penstock.contract import Source as SourceSpec
from sandbox.servers import Postgres, free_port
from services.extract.source import Reader, SourceBroke, SourceRefused
from services.extract.sources import CHECKS
from services.extract.sources.postgres import PostgresSource
from services.extract.sources.postgres_errors import explain
from services.extract.views import Views
from tests.builders import FILES, GOOGLE, META, database, execute, spec

SECRET = "mary.o'neil@example.com"
# More than sockets on both sides hold: the server is still sending while we wait.
LONG = "select n as id, repeat('x', 400) as pad from generate_series(1, 60000) as n"


def connection(url: str) -> PostgresConnection:
    return PostgresConnection(kind="postgres", url=SecretStr(url))


def source(url: str, **told: Any) -> PostgresSource:
    return PostgresSource(connection(url), SourceSpec(connection="warehouse", **told))


@contextmanager
def reading(url: str, **told: Any) -> Iterator[Reader]:
    it = source(url, **told)
    it.describe(total=False)
    with it.open((), None) as reader:
        yield reader


def read(url: str, query: str, **told: Any) -> list[dict[str, Any]]:
    """All rows, through the columns' own names."""
    with reading(url, query=query, **told) as reader:
        found = []
        while (block := reader.read(3)) is not None:
            found += block.text({c: c for c in block.columns}).to_pylist()
        return found


def refusal(url: str, query: str, **told: Any) -> str:
    with pytest.raises(SourceRefused) as caught:
        read(url, query, **told)
    said = str(caught.value)
    assert "\n" not in said
    whole = "".join(traceback.format_exception(caught.value))
    for form in (SECRET, SECRET.replace("'", "''")):
        assert form not in whole
    return said


@pytest.fixture(scope="module")
def shared_url(postgres_server: Postgres) -> Iterator[str]:
    with database(postgres_server) as url:
        yield url


@pytest.fixture
def people_url(shared_url: str) -> str:
    execute(
        shared_url,
        "drop schema public cascade",
        "drop schema if exists crm cascade",
        "create schema public",
        "create table people (id bigint primary key, email text, age int)",
        "insert into people select n, 'p' || n || '@example.com', n from generate_series(1, 10) n",
        "create schema crm",
        'create view crm."Adults" as select * from people where age > 8',
    )
    return shared_url


class TestTypes:
    @pytest.mark.parametrize(
        ("expression", "text"),
        [
            ("12345678901234567890.0100::numeric", "12345678901234567890.0100"),
            ("'2026-11-20 12:00:00.5+02'::timestamptz", "2026-11-20 10:00:00.5+00"),
            ("'2026-11-20'::date", "2026-11-20"),
            ("'1 day 2 hours'::interval", "P1DT2H"),
            ("""'{"a": [1, "b,c"]}'::jsonb""", '{"a": [1, "b,c"]}'),
            ("""array['a', NULL, 'b"c', '']""", '{a,NULL,"b\\"c",""}'),
            ("'\\x00ff'::bytea", "\\x00ff"),
            ("true", "t"),
            ("1.0e-10::float8", "1e-10"),
            ("row(1, 'a b')", '(1,"a b")'),
            ("NULL::text", None),
            ("''::text", ""),
            ("'정 “x”, y'", "정 “x”, y"),
        ],
    )
    def test_a_value_is_the_server_s_text(
        self, shared_url: str, expression: str, text: str | None
    ) -> None:
        assert read(shared_url, f"select {expression} as v, 1 as other") == [
            {"v": text, "other": "1"}
        ]
        assert read(shared_url, f"select {expression} as v") == [{"v": text}]

    @pytest.mark.parametrize(
        "key",
        ["n", "n::numeric / 7", "n::float8 / 7", "chr(64 + n)", "'2026-01-01'::date + n",
         "'2026-01-01'::timestamptz + n * interval '1.000001 s'", "int4send(n)",
         "md5(n::text)::uuid", "lpad(n::text, 9)", "'é''\"\\, ' || n"],
    )  # fmt: skip
    def test_a_job_goes_on_after_a_key_of_any_type(self, shared_url: str, key: str) -> None:
        it = source(shared_url, query=f"select {key} as k, n from generate_series(1, 9) n", key="k")
        it.describe(total=False)
        found, after = [], None
        while True:
            with it.open(["n"], after) as reader:
                block = reader.read(2)
            if block is None:
                break
            found += [row["n"] for row in block.text({"n": "n"}).to_pylist()]
            after = block.last_key
        assert sorted(map(int, found)) == list(range(1, 10))

    def test_two_columns_of_one_name(self, shared_url: str) -> None:
        with reading(shared_url, query="select 1 as a, 2 as b, 3 as a") as reader:
            block = reader.read(5)
        assert block is not None
        assert block.columns == ("a", "b", "a")
        assert block.text({"x": "a", "y": "b"}).to_pylist() == [{"x": "1", "y": "2"}]

    def test_a_table_is_named_with_its_schema(self, people_url: str) -> None:
        with reading(people_url, table="crm.Adults", key="id") as reader:
            block = reader.read(5)
        assert block is not None
        assert block.rows == 2


class TestParameters:
    def test_typed_values_are_bound(self, shared_url: str) -> None:
        params = {
            "text": SECRET, "number": 5, "real": 1.5, "yes": True, "nothing": None,
            "day": {"type": "date", "value": "2026-11-20"},
            "at": {"type": "timestamptz", "value": "2026-11-20T12:00:00+02:00"},
            "price": {"type": "numeric", "value": "0.10"},
            "big": {"type": "bigint", "value": "9000000000"},
            "id": {"type": "uuid", "value": "6d3c1f0e-6f1b-4a86-9a52-70656e73746b"},
        }  # fmt: skip
        columns = ", ".join(f"%({name})s as {name}" for name in params)
        (row,) = read(shared_url, f"select {columns}, %(day)s + 1 as next", params=params)
        assert row == {
            "text": SECRET, "number": "5", "real": "1.5", "yes": "t", "nothing": None,
            "day": "2026-11-20", "at": "2026-11-20 10:00:00+00", "price": "0.10",
            "big": "9000000000", "id": "6d3c1f0e-6f1b-4a86-9a52-70656e73746b", "next": "2026-11-21",
        }  # fmt: skip

    def test_a_value_is_never_part_of_the_query(self, people_url: str) -> None:
        query = "select count(*) as n from people where email = %(who)s"
        assert read(people_url, query, params={"who": "' or 1 = 1; --"}) == [{"n": "0"}]

    def test_a_percent_sign(self, people_url: str) -> None:
        query = "select count(*) as n from people where email like 'p1{}@%' and id > %(id)s"
        plain = query.format("%").replace("%(id)s", "0")
        assert read(people_url, plain) == [{"n": "2"}]
        assert read(people_url, query.format("%").replace("%'", "%%'").replace("1%@", "1%%@"),
                    params={"id": 0}) == [{"n": "2"}]  # fmt: skip
        assert "%% for a percent sign" in refusal(people_url, query.format("%"), params={"id": 0})

    def test_a_placeholder_without_a_name(self, people_url: str) -> None:
        said = refusal(people_url, "select * from people where id = %s", params={"id": 1})
        assert "parameters do not fit" in said

    def test_one_that_is_missing_is_named(self, people_url: str) -> None:
        said = refusal(people_url, "select %(since)s", params={"sinse": SECRET})
        assert "parameters do not fit" in said
        assert "since" in said

    def test_one_that_postgres_has_no_form_for(self, people_url: str) -> None:
        assert "NUL" in refusal(people_url, "select %(a)s", params={"a": f"{SECRET}\x00"})

    def test_a_value_is_not_quoted_by_an_error(self, people_url: str) -> None:
        said = refusal(
            people_url, "select * from people where 1 = 1 %(who)s", params={"who": SECRET}
        )
        assert "syntax error at or near" in said
        assert "%(who)s" in said
        refusal(people_url, "select * from people where id = %(who)s", params={"who": SECRET})


class TestRefused:
    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("select * from peeple", 'relation "peeple" does not exist'),
            ("select emial from people", 'column "emial" does not exist'),
            ("select people.emial from people", "Perhaps you meant"),
            ("select * fro people", 'syntax error at or near "fro"'),
            ("select nope(1)", "function nope(integer) does not exist"),
            ("with d as (delete from people returning *) select * from d", "data-modifying"),
            ("select 1; drop table people", "one statement"),
            ("select nextval('people_seq')", "tries to change data; jobs only read"),
            ("select wipe()", "tries to change data; jobs only read"),
            ("select 1 into other", "refused the query"),
            ("select email::int from people", "22P02"),
            ("select 1 / (age - 5) from people", "22012"),
            ("select shout()", "P0001"),
        ],
    )
    def test_with_the_database_s_words_where_they_hold_no_data(
        self, people_url: str, query: str, said: str
    ) -> None:
        execute(
            people_url,
            "create sequence people_seq",
            "insert into people values (0, 'mary.o''neil@example.com', 5)",
            "create function wipe() returns int language sql as $$ delete from people; select 1 $$",
            "create function shout() returns int language plpgsql as $$ begin raise "
            "'%', (select email from people where id = 0); end $$",
        )
        if ";" in query:
            with pytest.raises(ValueError, match=said):
                SourceSpec(connection="warehouse", query=query)
            return
        assert said in refusal(people_url, query)
        with psycopg.connect(people_url) as db:
            assert db.execute("select count(*) from people").fetchone() == (11,)

    def test_a_second_statement_hidden_from_the_spec(self, people_url: str) -> None:
        """The server, not the spec, is what lets one statement through."""
        hidden = (
            r"select E'\'') as a; commit; drop table people; select * from (select 'b' as id --'"
        )
        assert "multiple commands" in refusal(people_url, hidden)
        with psycopg.connect(people_url) as db:
            assert db.execute("select count(*) from people").fetchone() == (10,)

    def test_a_row_that_cannot_be_worked_out_after_a_thousand_that_can(
        self, shared_url: str
    ) -> None:
        query = f"select case when n < 5000 then n::text else $${SECRET}$$ end::int as v from generate_series(1, 9000) n"
        with pytest.raises(SourceRefused, match="22P02") as caught:
            read(shared_url, query)
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    def test_columns_and_key_that_the_source_lacks(self) -> None:
        columns = ("id", "mail", "first_name")
        for told, said in (
            (
                {"source_key": "idd"},
                r"no column 'idd' \(`key`\) \(did you mean 'id'\?\); it has id,",
            ),
            ({"source_columns": {"email": "emial"}}, r"'emial' \(mapped to 'email'\).*'mail'"),
        ):
            with pytest.raises(SourceRefused, match=said):
                Views(spec(META, **told), ["meta"], columns)
        with pytest.raises(SourceRefused, match="none of the columns that Google can use"):
            Views(spec(GOOGLE), ["google"], ("id", "mail"))
        assert Views(spec(FILES), ["rows"], ("id", "mail")).columns == ()


class TestSignIn:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (("penstock@", "nobody@"), "there is no such user"),
            (("/shared", "/no_such"), "there is no such database"),
            (("127.0.0.1", "no-such-host.invalid"), "the host name is not known"),
            (("postgresql://", "postgresql//"), "the url is not valid"),
            (("penstock@", "penst%zzock@"), "the url is not valid"),
            (("127.0.0.1:", "127.0.0.1:x"), "the url is not valid"),
        ],
    )
    def test_what_is_wrong_is_told(
        self, shared_url: str, change: tuple[str, str], said: str
    ) -> None:
        assert f"Connection 'warehouse' cannot sign in: {said}." in refusal(
            shared_url.replace(*change), "select 1"
        )

    def test_what_the_server_says_of_a_user(self, private_postgres: Postgres) -> None:
        url = private_postgres.url
        execute(
            url,
            "create role locked login password 'right'",
            "create role outsider login",
            "create role busy login connection limit 0",
            "create role idle nologin",
        )
        hba = Path(private_postgres.data) / "pg_hba.conf"
        hba.write_text(
            "host all locked 127.0.0.1/32 scram-sha-256\nhost all outsider 127.0.0.1/32 reject\n"
            + hba.read_text()
        )
        execute(url, "select pg_reload_conf()")
        _until_admitted_no_more(url.replace("penstock@", "outsider@"))
        for user, said in (
            ("locked:wrong", "the user or the password is wrong"),
            ("locked", "it wants a password"),
            ("outsider", "the server does not admit this host or user"),
            ("idle", "the user may not log in"),
        ):
            found = refusal(url.replace("penstock@", f"{user}@"), "select 1")
            assert found == f"Connection 'warehouse' cannot sign in: {said}."
        assert read(url.replace("penstock@", "locked:right@"), "select 1 as a") == [{"a": "1"}]
        with pytest.raises(SourceBroke):  # others will leave: not a verdict on the job
            read(url.replace("penstock@", "busy@"), "select 1")

    @pytest.mark.parametrize(
        "text",
        [
            "failed to resolve host 'h': [Errno -3] Temporary failure in name resolution",
            'connection failed: FATAL:  too many connections for database "d"',
            "connection failed: FATAL:  the database system is starting up",
        ],
    )
    def test_what_passes_is_no_verdict(self, text: str) -> None:
        assert isinstance(explain(psycopg.OperationalError(text), "warehouse"), SourceBroke)

    def test_the_doctor_s_check(self, shared_url: str) -> None:
        assert CHECKS["postgres"](connection(shared_url)) == "signed in and read"
        with pytest.raises(
            SourceRefused, match=r"^The connection cannot sign in: there is no such"
        ):
            CHECKS["postgres"](connection(shared_url.replace("penstock@", "nobody@")))
        with pytest.raises(SourceBroke, match=r"^The database does not answer\.$"):
            CHECKS["postgres"](connection(f"postgresql://penstock@127.0.0.1:{free_port()}/x"))


class TestStream:
    def test_limits_on_time_do_not_end_a_stream_that_is_read_slowly(self, source_url: str) -> None:
        database = source_url.rpartition("/")[2]
        execute(
            source_url,
            *(
                f"alter {what} set {name} = '500ms'"
                for what in (f"database {database}", f"role penstock in database {database}")
                for name in ("statement_timeout", "idle_in_transaction_session_timeout")
            ),
        )
        with reading(source_url, query=LONG, key="id") as reader:
            count = 0
            while (block := reader.read(15_000)) is not None:
                count += block.rows
                time.sleep(0.3)
        assert count == 60_000

    def test_the_limits_were_in_force(self, source_url: str) -> None:
        """Or the test above could not fail."""
        execute(
            source_url,
            f"alter database {source_url.rpartition('/')[2]} set statement_timeout = 500",
        )

        def read_slowly() -> None:
            with (
                psycopg.connect(source_url) as db,
                db.cursor().copy(f"copy ({LONG}) to stdout") as it,
            ):
                for n, _ in enumerate(it):
                    if n % 15_000 == 0:
                        time.sleep(0.3)

        with pytest.raises(psycopg.errors.QueryCanceled):
            read_slowly()

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    def test_a_server_that_goes_away_breaks_the_stream_off(
        self, private_postgres: Postgres, mode: Any
    ) -> None:
        def read_on() -> None:
            with reading(private_postgres.url, query=LONG, key="id") as reader:
                first = reader.read(10)
                assert first is not None
                assert first.last_key == "10"
                private_postgres.restart(mode)
                while reader.read(1000) is not None:
                    pass

        with pytest.raises(SourceBroke, match=r"'warehouse'|database broke off"):
            read_on()
        it = source(private_postgres.url, query=LONG, key="id")
        it.describe(total=False)
        with it.open(["id"], "10") as reader:
            again = reader.read(3)
        assert again is not None
        assert again.last_key == "13"

    def test_a_query_longer_than_a_socket_takes_at_once(self, shared_url: str) -> None:
        (row,) = read(shared_url, f"select 7 as id, '{'x' * 8_000_000}' as pad", key="id")
        assert row["id"] == "7"
        assert len(row["pad"]) == 8_000_000

    def test_reading_slowly_takes_no_memory(self, shared_url: str) -> None:
        with reading(shared_url, query=LONG.replace("60000", "200000")) as reader:
            reader.read(2_000)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            while reader.read(2_000) is not None:
                pass
            # 80 MB went by.
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000

    def test_all_is_read_of_one_moment(self, people_url: str) -> None:
        with reading(people_url, table="people", key="id") as reader:
            first = reader.read(3)
            execute(
                people_url,
                "insert into people values (100, 'new', 1)",
                "delete from people where id = 10",
            )
            rest = reader.read(100)
        assert first is not None
        assert rest is not None
        assert (first.rows, rest.rows, rest.last_key) == (3, 7, "10")

    def test_the_estimate_is_the_planner_s(self, people_url: str) -> None:
        execute(people_url, "analyze people")
        with psycopg.connect(people_url) as db:
            (plan,) = db.execute("explain (format json) select * from people").fetchone() or ((),)
        found = source(people_url, table="people").describe(total=True)
        assert (found.total, found.total_is_exact) == (plan[0]["Plan"]["Plan Rows"], False)
        assert json.dumps(found.total)


def _until_admitted_no_more(url: str) -> None:
    """The server reads its rules again in its own time."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            return
        time.sleep(0.05)
    raise AssertionError("the server did not take up its new rules")
