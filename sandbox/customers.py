"""Made-up customers, made by the database itself and the same on every run.

What is odd about a row depends on its id alone, so that the right figures are known beforehand:

- every 1000th has no identifier at all: its e-mail has no @, its phone, names and postal code
  are NULL;
- every 500th (250, 750, 1250, ...) has a phone without a digit, but a good e-mail;
- every 50th has a comma, a quote and a line break in its notes; every 40th has no notes (NULL);
- every 7th e-mail is in mixed case and has blanks around it; every 11th is a gmail address with
  dots and a tag, which are no part of its identity at Google;
- about half of the customers have letters beyond ASCII in their names.

Good e-mails and phones are unique, also after normalising them by any platform's rules (up to
99,999,999 rows). Phones are international, with a + and separators. No person or number is meant.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql

_FIRST = (
    *("Anna", "José", "Zoë", "Mary", "Łukasz", "Liam", "Søren", "Priya", "John", "Noémie"),
    *("Emma", "Jürgen", "Oliver", "Ngọc", "Grace", "Mateo", "Åsa", "Hugo", "Chloe", "정우"),
    *("Peter", "Inês", "Lucas", "Fatima", "Mia", "Dmitri", "Ella", "花子", "Noah", "Sofia"),
    "Ahmed",
)
_LAST = (
    *("Smith", "Müller", "O'Brien", "Nguyễn", "García", "de la Cruz", "Kowalska", "Smith-Jones"),
    *("Johansson", "Okafor", "Rossi", "Jensen", "Çelik", "Brown", "Dubois", "Tanaka", "Ionescu"),
    *("Fernández", "Meyer", "Walker", "김", "Novák", "Silva"),
)
_WORDS = ("newsletter", "wholesale", "returned goods", "loyalty card", "store pickup", "referral")
_PLACES = (
    ("US", "New York", "10001"),
    ("DE", "Köln", "50667"),
    ("GB", "London", "SW1A 1AA"),
    ("FR", "Saint-Étienne", "42000"),
    ("US", "San José", "95113-2001"),
    ("SE", "Malmö", "211 22"),
    ("JP", "東京", "100-0001"),
)

_COLUMNS = """
    id bigint NOT NULL,
    email text,
    phone text,
    first_name text,
    last_name text,
    city text,
    postal_code text,
    country text,
    created_at timestamptz NOT NULL,
    lifetime_value numeric(12,2) NOT NULL,
    notes text
"""

_ROWS = """
WITH base AS (
    SELECT i,
        NOT {clean} AND i % 1000 = 0 AS nobody,
        NOT {clean} AND i % 500 = 250 AS no_digit,
        NOT {clean} AND i % 50 = 0 AS awkward,
        CASE WHEN {clean} THEN 'anna.smith' ELSE
            (ARRAY['anna.smith', 'j.doe', 'crew', 'mary-ann', 'the_office', 'hello', 'k.l.m'])
                [1 + i % 7] END AS local,
        {first}[1 + i % {firsts}] AS first_name,
        {last}[1 + i / 3 % {lasts}] AS last_name,
        1 + (i % {places})::int AS place
    FROM generate_series(1, {rows}::bigint) AS i
)
SELECT i,
    CASE
        WHEN nobody THEN 'nobody-' || i || ' asked for no mail'
        WHEN {clean} THEN local || i || '@example.com'
        WHEN i % 7 = 0 THEN '  ' || initcap(local) || i || '@Example.COM '
        WHEN i % 11 = 0 THEN local || '.' || i || '+news@gmail.com'
        ELSE local || i || (ARRAY['@example.com', '@example.org', '@mail.example.net'])[1 + i % 3]
    END,
    CASE
        WHEN nobody THEN NULL
        WHEN no_digit THEN (ARRAY['n/a', 'unknown', '-'])[1 + i / 500 % 3]
        WHEN i % 3 = 0 THEN '+49 151 ' || lpad(i::text, 8, '0')
        ELSE '+1 (' || 201 + i % 700 || ') ' || 200 + i / 700 % 700 || '-'
            || lpad((i / 490000)::text, 4, '0')
    END,
    CASE WHEN NOT nobody THEN first_name END,
    CASE WHEN NOT nobody THEN last_name END,
    {cities}[place],
    CASE WHEN NOT nobody THEN {codes}[place] END,
    {countries}[place],
    timestamptz '2020-01-01 00:00:00+00' + i % 150000000 * interval '1 second',
    (i * 7919 % 1000000) / 100.0,
    CASE
        WHEN awkward THEN 'said "call me, please"' || chr(10) || 'second line of ' || i
        WHEN NOT {clean} AND i % 40 = 1 THEN NULL
        ELSE 'came by ' || {words}[1 + i % {kinds}] || ', order ' || i * 31
            || ', last seen in shop ' || i % 97 || ' with a voucher'
    END
FROM base
"""


@dataclass(frozen=True)
class Expected:
    """The right figures for a table of customers."""

    rows: int
    unidentifiable: int
    """Neither a good e-mail nor a good phone, nor a name with an address."""
    without_phone: int
    """No good phone; the unidentifiable are among them."""

    @property
    def identifiable(self) -> int:
        """As many as have a good e-mail."""
        return self.rows - self.unidentifiable


def expected(rows: int, *, clean: bool = False) -> Expected:
    if clean:
        return Expected(rows=rows, unidentifiable=0, without_phone=0)
    nobody = rows // 1000
    return Expected(rows=rows, unidentifiable=nobody, without_phone=nobody + (rows + 250) // 500)


def create_customers(
    url: str, rows: int, table: str = "customers", clean: bool = False
) -> Expected:
    """Make the table anew, with ids from 1 to `rows`; `clean` leaves the oddities out.

    Names keep their letters in a clean table too.
    """
    name = sql.Identifier(*table.split("."))
    with psycopg.connect(url) as connection:
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
        connection.execute(sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(_COLUMNS)))
        connection.execute(sql.SQL("INSERT INTO {} {}").format(name, _select(rows, clean=clean)))
        # After the rows, because building an index at once is quicker than growing it.
        connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (id)").format(name))
        connection.commit()
        connection.autocommit = True
        # Else the first to read the table pays for marking its rows as visible.
        connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(name))
    return expected(rows, clean=clean)


def _select(rows: int, *, clean: bool) -> sql.Composed:
    countries, cities, codes = zip(*_PLACES, strict=True)
    return sql.SQL(_ROWS).format(
        rows=sql.Literal(rows),
        clean=sql.SQL("true" if clean else "false"),
        first=_array(_FIRST),
        firsts=sql.Literal(len(_FIRST)),
        last=_array(_LAST),
        lasts=sql.Literal(len(_LAST)),
        words=_array(_WORDS),
        kinds=sql.Literal(len(_WORDS)),
        countries=_array(countries),
        cities=_array(cities),
        codes=_array(codes),
        places=sql.Literal(len(_PLACES)),
    )


def _array(values: tuple[str, ...]) -> sql.Composed:
    items = sql.SQL(", ").join(sql.Literal(value) for value in values)
    return sql.SQL("(ARRAY[{}])").format(items)
