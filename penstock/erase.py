"""Erasure: which audiences may hold a person, and the jobs that remove the person from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock import person, routes
from penstock.contract import Identity, JobSpec, Source
from penstock.destinations import KINDS, AnyDestination
from penstock.errors import SpecError
from penstock.ledger import Ledger
from penstock.ledger.erasures import Sent

_KINDS = ("google_ads", "data_manager", "meta", *routes.PLAIN_AUDIENCES)
# What tells an audience from another, and what is needed besides to get at it.
_AUDIENCE = ("kind", "connection", "customer_id", "user_list_id", "account_id", "audience_id",
             "audience")  # fmt: skip
_ACCESS = ("login_customer_id", "linked_customer_id", "options")
_MOST_LANES = 50
_BY_CONTACT = "contact_info"


@dataclass(frozen=True, slots=True)
class Erased:
    """An erasure that is written down, and what it does."""

    erasure_id: str
    identifiers: int
    #: Each job and its lanes; empty where nothing was ever sent.
    jobs: dict[str, dict[str, AnyDestination]]
    #: Audiences whose members are known by other ids than these: they have to be looked at by hand.
    beyond: list[dict[str, Any]]
    #: Jobs that were sending meanwhile.
    running: list[str]


def erase(ledger: Ledger, emails: Iterable[str], phones: Iterable[str]) -> Erased:
    """Suppress the people and submit the jobs that remove them. The caller sends for the jobs."""
    # A row for each identifier: a platform that knows somebody by one may not know the others.
    people = person.of_all(emails, phones)
    if not people:
        raise SpecError("Whom to erase is not said: give an e-mail address or a phone number.")
    erasure_id, sent, specs = ledger.erasures.record(people, _jobs)
    return Erased(
        erasure_id,
        len(people),
        {spec.job_id or "": spec.lanes() for spec in specs},
        removals(sent.destinations)[1],
        sent.running,
    )


def removals(
    destinations: Iterable[Mapping[str, Any]],
) -> tuple[list[AnyDestination], list[dict[str, Any]]]:
    """Each audience once as a destination to remove from, and those that hold no e-mail addresses
    nor phones. Of two ways to one audience the first goes.
    """
    found: dict[tuple[Any, ...], AnyDestination] = {}
    beyond: dict[tuple[Any, ...], dict[str, Any]] = {}
    accounts: dict[tuple[str, str], AnyDestination] = {}
    for told in destinations:
        if told.get("kind") not in _KINDS:
            continue
        if told["kind"] == "meta" and told.get("account_id"):
            place = (told["connection"], told["account_id"])
            everywhere = {"connection": place[0], "account_id": place[1], "everywhere": True}
            accounts[place] = _removal({"kind": "meta", **everywhere})
        if told.get("everywhere"):
            continue
        audience = {key: told[key] for key in _AUDIENCE if told.get(key)}
        # Its id is the same audience whether the account is told or not.
        key = tuple(i for i in audience.items() if i[0] != "account_id" or "audience" in audience)
        if told.get("list_type", _BY_CONTACT) != _BY_CONTACT:
            beyond.setdefault(key, audience | {"list_type": told["list_type"]})
        elif key not in found:
            found[key] = _removal(audience | {k: told[k] for k in _ACCESS if told.get(k)})
    return [*found.values(), *accounts.values()], list(beyond.values())


def _removal(document: dict[str, Any]) -> AnyDestination:
    return KINDS[document["kind"]].model_validate({**document, "mode": "remove"})


def _jobs(erasure_id: str, sent: Sent) -> list[JobSpec]:
    """One job, or more where a job cannot have so many lanes."""
    destinations = removals(sent.destinations)[0]
    return [
        JobSpec(
            name="erasure",
            job_id=f"erase-{erasure_id}" + (f".{start // _MOST_LANES + 1}" if start else ""),
            source=Source(connection="ledger", erasure=erasure_id, key="place", total="exact"),
            destinations=tuple(destinations[start : start + _MOST_LANES]),
            identity=Identity(prehashed=("email", "phone")),
        )
        for start in range(0, len(destinations), _MOST_LANES)
    ]
