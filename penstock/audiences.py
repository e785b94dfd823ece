"""Destinations that are people: audiences of the ad platforms."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from penstock import routes
from penstock.parts import ConnectionName, Part

Mode = Literal["add", "remove", "replace", "mirror"]
Consented = Literal["granted", "denied"]
ListType = Literal["contact_info", "crm_id", "mobile_advertising_id"]

_GOOGLE_VIEWS: dict[ListType, str] = {
    "contact_info": "google",
    "crm_id": "google_crm",
    "mobile_advertising_id": "google_mobile",
}


class DestinationPart(Part):
    """What every destination has."""

    connection: ConnectionName = Field(
        description="Name of a connection of the workers: letters, digits, '_' and '-'."
    )
    lane: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$",
        description="Name of the lane in status: letters, digits, '_' and '-'; the connection's "
        "name unless given.",
    )

    @property
    @abstractmethod
    def view(self) -> str:
        """Which form of the rows the lane's payload carries."""

    @property
    def serial(self) -> bool:
        """Whether the platform takes one request of the lane at a time."""
        return False


def _without(before: str) -> BeforeValidator:
    """An id may be written as a number, and as the platforms' own pages show it."""

    def read(value: Any) -> Any:
        return str(value).replace(before, "") if isinstance(value, int | str) else value

    return BeforeValidator(read, json_schema_input_type=int | str)


_DIGITS = StringConstraints(pattern=r"^\d+$")
_TEN_DIGITS = re.compile(r"\d{10}")


class AudiencePart(DestinationPart):
    mode: Mode = Field(
        "add",
        description="`add` or `remove` the members; `replace`: the audience becomes exactly the "
        "source; `mirror`: only what differs from this job's last successful run is sent.",
    )
    max_removed_percent: int = Field(
        50,
        ge=0,
        le=100,
        description="`mirror` takes nobody out where it would be more than this share of the "
        "audience: a source that has lost its rows must not empty it.",
    )
    #: What of the modes the platform has.
    modes: ClassVar[tuple[Mode, ...]] = ("add", "remove", "replace", "mirror")
    #: Why it lacks one.
    no_replace: ClassVar[str] = "it has no way to swap an audience whole; use `mirror`"

    @model_validator(mode="after")
    def _has_mode(self) -> AudiencePart:
        if self.mode not in self.modes:
            raise ValueError(f'`mode = "{self.mode}"` is not to be had here: {self.no_replace}')
        return self


class _Named(AudiencePart):
    audience: str | None = Field(
        None, min_length=1, max_length=200, description="The audience's name, in place of its id."
    )
    create: bool = Field(False, description="Create the audience where none has the name.")
    description: str | None = Field(
        None, max_length=1000, description="What a created audience says of itself."
    )

    @model_validator(mode="after")
    def _creates_by_name(self) -> _Named:
        if self.create and self.audience is None:
            raise ValueError("`create` needs `audience`, the name to create it under")
        if self.create and self.mode == "remove":
            raise ValueError('`create` makes no sense with `mode = "remove"`')
        return self


def _can_be_mirrored(mode: Mode, list_type: ListType) -> None:
    if mode == "mirror" and list_type != "contact_info":
        raise ValueError(
            f'`mode = "mirror"` keeps digests alone, and members of `list_type = "{list_type}"` '
            "are not sent as such: use `replace`, or `add` and `remove`"
        )


def _ten_digits(name: str, value: str | None) -> None:
    if value is not None and not _TEN_DIGITS.fullmatch(value):
        raise ValueError(f"`{name}` must have ten digits")


class GoogleAds(_Named):
    """A Customer Match list, through the Google Ads API."""

    kind: Literal["google_ads"] = Field(
        "google_ads", description="What it is; shows in the other keys."
    )
    customer_id: Annotated[str, _without("-")] = Field(
        description="The account, ten digits; dashes are dropped."
    )
    login_customer_id: Annotated[str, _without("-")] | None = Field(
        None, description="The manager account to go through, where not the connection's."
    )
    user_list_id: Annotated[str, _DIGITS, _without("-")] | None = Field(
        None, description="Id of the user list: digits."
    )
    list_type: ListType = Field(
        "contact_info",
        description="What members are known by: `contact_info` (e-mail, phone, address), `crm_id` "
        "(`external_id`) or `mobile_advertising_id`.",
    )
    membership_days: int | None = Field(
        None, ge=1, le=540, description="How long a created list keeps a member; 540 unless given."
    )
    app_id: str | None = Field(
        None, description="The app whose ids a created list of `mobile_advertising_id` holds."
    )
    ad_user_data: Consented | None = Field(
        None, description="Consent for sending user data to Google, where a row has none."
    )
    ad_personalization: Consented | None = Field(
        None, description="Consent for ad personalization, where a row has none."
    )

    @property
    def view(self) -> str:
        return _GOOGLE_VIEWS[self.list_type]

    @property
    def serial(self) -> bool:
        return True

    @model_validator(mode="after")
    def _one_list(self) -> GoogleAds:
        _ten_digits("customer_id", self.customer_id)
        _ten_digits("login_customer_id", self.login_customer_id)
        _can_be_mirrored(self.mode, self.list_type)
        if (self.user_list_id is None) == (self.audience is None):
            raise ValueError("give either `user_list_id` or `audience` (the list's name)")
        if self.create and self.list_type == "mobile_advertising_id" and self.app_id is None:
            raise ValueError("a created list of `mobile_advertising_id` needs `app_id`")
        return self


class DataManager(AudiencePart):
    """A Customer Match list, through Google's Data Manager API."""

    kind: Literal["data_manager"] = Field(description="What it is.")
    customer_id: Annotated[str, _without("-")] = Field(
        description="The account that owns the list, ten digits; dashes are dropped."
    )
    login_customer_id: Annotated[str, _without("-")] | None = Field(
        None, description="The manager account to go through."
    )
    linked_customer_id: Annotated[str, _without("-")] | None = Field(
        None,
        description="The client's account that the data partner's `login_customer_id` is linked "
        "to.",
    )
    user_list_id: Annotated[str, _DIGITS, _without("-")] = Field(
        description="Id of the user list: digits."
    )
    list_type: ListType = Field(
        "contact_info",
        description="What members are known by: `contact_info`, `crm_id` (`external_id`) or "
        "`mobile_advertising_id`.",
    )
    terms_accepted: bool = Field(
        False, description="That the account has accepted Google's Customer Match terms."
    )
    ad_user_data: Consented | None = Field(
        None, description="Consent for sending user data to Google, where a row has none."
    )
    ad_personalization: Consented | None = Field(
        None, description="Consent for ad personalization, where a row has none."
    )

    @property
    def view(self) -> str:
        return _GOOGLE_VIEWS[self.list_type]

    @model_validator(mode="after")
    def _accounts(self) -> DataManager:
        for name in ("customer_id", "login_customer_id", "linked_customer_id"):
            _ten_digits(name, getattr(self, name))
        _can_be_mirrored(self.mode, self.list_type)
        if self.mode != "remove" and not self.terms_accepted:
            raise ValueError(
                "`terms_accepted = true` is needed: Google takes members only from accounts that "
                "have accepted the Customer Match terms"
            )
        return self


class Meta(_Named):
    """A Custom Audience of Meta."""

    kind: Literal["meta"] = Field("meta", description="What it is; shows in the other keys.")
    audience_id: Annotated[str, _DIGITS, _without("act_")] | None = Field(
        None, description="Id of the audience: digits."
    )
    account_id: Annotated[str, _DIGITS, _without("act_")] | None = Field(
        None, description="Ad account, needed to find an `audience` by its name."
    )
    everywhere: bool = Field(
        False,
        description='With `mode = "remove"`: out of every audience of the account, not of one.',
    )
    data_processing_options: tuple[Literal["LDU"], ...] = Field(
        (), description='`["LDU"]` asks Meta for Limited Data Use.'
    )
    data_processing_country: int | None = Field(
        None, ge=0, description="Country for Limited Data Use; 0 lets Meta find it, 1 is the US."
    )
    data_processing_state: int | None = Field(
        None, ge=0, description="State for Limited Data Use; 0 lets Meta find it."
    )

    @property
    def view(self) -> str:
        return "meta"

    @property
    def serial(self) -> bool:
        # A swap is one session for all of the lane, whose batches are numbered.
        return self.mode == "replace"

    @model_validator(mode="after")
    def _one_audience(self) -> Meta:
        if self.everywhere:
            if self.mode != "remove" or self.account_id is None:
                raise ValueError('`everywhere` needs `mode = "remove"` and `account_id`')
            if self.audience_id is not None or self.audience is not None:
                raise ValueError("`everywhere` takes no `audience_id` and no `audience`")
        elif (self.audience_id is None) == (self.audience is None):
            raise ValueError("give either `audience_id` or `audience` (its name)")
        if self.audience is not None and self.account_id is None:
            raise ValueError("`audience` (a name) needs `account_id` beside it")
        given = self.data_processing_country is not None, self.data_processing_state is not None
        if given[0] != given[1]:
            raise ValueError(
                "`data_processing_country` and `data_processing_state` go together (0 and 0: Meta "
                "finds out)"
            )
        if any(given) and not self.data_processing_options:
            raise ValueError('`data_processing_country` needs `data_processing_options = ["LDU"]`')
        return self


class Audience(_Named):
    """An audience of a platform that needs no keys of its own."""

    kind: str = Field(
        description="The platform.", json_schema_extra={"enum": list(routes.PLAIN_AUDIENCES)}
    )
    audience_id: Annotated[str, _without("")] | None = Field(
        None, description="Id of the audience."
    )
    account_id: Annotated[str, _without("")] | None = Field(
        None, description="Ad account, needed to find an `audience` by its name."
    )
    options: dict[str, str] = Field(
        default_factory=dict, description="What the platform's own page in the docs names."
    )
    modes: ClassVar[tuple[Mode, ...]] = ("add", "remove", "mirror")

    @property
    def view(self) -> str:
        return routes.PLAIN_AUDIENCES[self.kind]

    @model_validator(mode="after")
    def _one_audience(self) -> Audience:
        if self.kind not in routes.PLAIN_AUDIENCES:
            raise ValueError(f"`kind` must be one of {', '.join(routes.PLAIN_AUDIENCES)}")
        if (self.audience_id is None) == (self.audience is None):
            raise ValueError("give either `audience_id` or `audience` (its name)")
        if self.audience is not None and self.account_id is None:
            raise ValueError("`audience` (a name) needs `account_id` beside it")
        return self
