"""What Postgres' errors mean for a job, in the database's own words where those hold no data."""

from __future__ import annotations

import re

import psycopg

from services.extract.source import SourceBroke, SourceRefused

# Classes whose message quotes names of the query; others may quote values of a row.
_QUOTES_NAMES = ("42", "3F", "0A")
_COMES_BACK = ("08", "53", "55", "57", "58", "40", "25")

_REFUSED_AT_CONNECT = (
    ("password authentication failed", "the user or the password is wrong"),
    ("no password supplied", "it wants a password"),
    (r"pg_hba\.conf", "the server does not admit this host or user"),
    (r'role ".*" does not exist', "there is no such user"),
    (r'role ".*" is not permitted to log in', "the user may not log in"),
    (r'database ".*" does not exist', "there is no such database"),
    ("permission denied for database", "the user may not use the database"),
    (r"could not translate host name.*(not known|No address)", "the host name is not known"),
    (r"failed to resolve host.*(not known|No address)", "the host name is not known"),
    (r"failed to resolve host.*Servname", "the url is not valid"),
    ("certificate verify failed", "the server's certificate is not trusted"),
    (r"invalid (\w+ value|port|integer|connection option)", "the url is not valid"),
)  # fmt: skip


def explain(
    exc: psycopg.Error, connection: str | None, literals: dict[str, str] | None = None
) -> SourceBroke | SourceRefused:
    """No `connection`: who asks knows which it is. `literals` are values spliced into the query,
    which a syntax error would quote.
    """
    state = exc.sqlstate or ""
    if not state:
        return _not_connected(exc, connection)
    if state.startswith("28"):
        return SourceRefused(
            f"{_sign_in(connection)}: the user or the password is wrong ({state})."
        )
    if state == "25006":
        return SourceRefused("The query tries to change data; jobs only read.")
    if state in ("57014", "55P03"):
        return SourceBroke(f"The database stopped the query ({state}).")
    name = type(exc).__name__
    if state.startswith(_QUOTES_NAMES):
        said = f"{exc.diag.message_primary}."
        if exc.diag.message_hint:
            said += f" {exc.diag.message_hint}"
        for value in sorted(literals or {}, key=len, reverse=True):
            said = said.replace(value, (literals or {})[value])
        return SourceRefused(f"The database refused the query: {said}")
    if state.startswith(_COMES_BACK):
        return SourceBroke(f"{_database(connection)} broke off ({state} {name}).")
    return SourceRefused(
        f"The database stopped at a row it could not work out ({state} {name}); its text is left "
        "out because it may quote the row."
    )


def _not_connected(exc: psycopg.Error, connection: str | None) -> SourceBroke | SourceRefused:
    if isinstance(exc, psycopg.ProgrammingError):
        return SourceRefused(f"{_sign_in(connection)}: the url is not valid.")
    for sign, meaning in _REFUSED_AT_CONNECT:
        if re.search(sign, str(exc)):
            return SourceRefused(f"{_sign_in(connection)}: {meaning}.")
    return SourceBroke(f"{_database(connection)} does not answer.")


def _sign_in(connection: str | None) -> str:
    who = f"Connection {connection!r}" if connection else "The connection"
    return f"{who} cannot sign in"


def _database(connection: str | None) -> str:
    return f"The database of connection {connection!r}" if connection else "The database"
