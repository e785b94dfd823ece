"""What a table of connections.toml holds, by its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from penstock import routes


class ConnectionPart(BaseModel):
    # An id written without quotes is a number in TOML, and the same id.
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, coerce_numbers_to_str=True
    )
    is_source: ClassVar[bool] = False
    #: Why a job cannot read from it, where one might think it can.
    no_source_because: ClassVar[str] = ""


class PostgresConnection(ConnectionPart):
    """A database to read from."""

    kind: Literal["postgres"] = Field(description="What it is a connection to.")
    url: SecretStr = Field(description="postgresql://user:password@host:5432/database")
    is_source: ClassVar[bool] = True


# What both of Google's kinds have. Were they fields of the base, they would come before each kind's
# own, in the reference too.
_ClientId = Annotated[str | None, Field(description="Of the OAuth client a user signed in with.")]
_ClientSecret = Annotated[SecretStr | None, Field(description="Of the same OAuth client.")]
_RefreshToken = Annotated[
    SecretStr | None, Field(description="What the user's consent gave to that client.")
]
_KeyFile = Annotated[Path | None, Field(description="A service account's key.")]
_Insecure = Annotated[bool, Field(description="Speak without TLS and without OAuth (a sandbox).")]


class _SignsIn(Protocol):
    client_id: str | None
    client_secret: SecretStr | None
    refresh_token: SecretStr | None
    json_key_file_path: Path | None
    endpoint: str | None
    insecure: bool


class _GoogleConnection(ConnectionPart):
    @model_validator(mode="after")
    def _can_sign_in(self: _SignsIn) -> _SignsIn:
        oauth = self.client_id and self.client_secret and self.refresh_token
        if not (self.insecure or oauth or self.json_key_file_path):
            raise ValueError(
                "needs `client_id`, `client_secret` and `refresh_token`, or `json_key_file_path`"
            )
        if self.insecure and not self.endpoint:
            raise ValueError("`insecure` is for another server: give its `endpoint`")
        return self


class GoogleAdsConnection(_GoogleConnection):
    """Google Ads, by the SDK's own names."""

    kind: Literal["google_ads"] = Field(description="What it is a connection to.")
    developer_token: SecretStr = Field(description="Of the manager account's API Center.")
    login_customer_id: str | None = Field(
        None, description="The manager account, where access to the job's account is through one."
    )
    client_id: _ClientId = None
    client_secret: _ClientSecret = None
    refresh_token: _RefreshToken = None
    json_key_file_path: _KeyFile = None
    impersonated_email: str | None = Field(
        None, description="The user that the service account acts for, where it does for one."
    )
    endpoint: str | None = Field(None, description="Another server than Google's: host:port.")
    insecure: _Insecure = False


class DataManagerConnection(_GoogleConnection):
    """Google's Data Manager API."""

    kind: Literal["data_manager"] = Field(description="What it is a connection to.")
    client_id: _ClientId = None
    client_secret: _ClientSecret = None
    refresh_token: _RefreshToken = None
    json_key_file_path: _KeyFile = None
    quota_project: str | None = Field(
        None, description="The Google Cloud project whose quota pays, where not the credentials'."
    )
    endpoint: str | None = Field(
        None, description="Another server than Google's: host:port, or http://host:port."
    )
    insecure: _Insecure = False


class MetaConnection(ConnectionPart):
    """Meta's Marketing API."""

    kind: Literal["meta"] = Field(description="What it is a connection to.")
    access_token: SecretStr = Field(description="A system user's, with `ads_management`.")
    app_id: str | None = Field(None, description="The app that the token was made for.")
    app_secret: SecretStr | None = Field(
        None, description="With it each request proves that it comes from the app."
    )
    graph_url: str | None = Field(None, description="Another server than Meta's: http://host:port")


class S3Connection(ConnectionPart):
    """S3 or a store that speaks it. What is left out comes from boto3's own variables."""

    kind: Literal["s3"] = Field(description="What it is a connection to.")
    region: str | None = Field(None, description="The buckets' region, such as `eu-central-1`.")
    endpoint_url: str | None = Field(None, description="Another store than AWS: https://host:port")
    access_key_id: str | None = Field(None, description="The key's public half.")
    secret_access_key: SecretStr | None = Field(None, description="The key's secret half.")
    session_token: SecretStr | None = Field(
        None, description="Of temporary keys; a download link ends with them."
    )
    path_style: bool | None = Field(None, description="Bucket in the path; on with `endpoint_url`.")


class TokenConnection(ConnectionPart):
    """A platform that takes an access token and nothing else."""

    kind: str = Field(description="What it is a connection to.")
    access_token: SecretStr = Field(description="The OAuth access token.")
    api_url: str | None = Field(None, description="Another server than the platform's own.")


class HttpConnection(ConnectionPart):
    """An endpoint of one's own."""

    kind: Literal["http"] = Field(description="What it is a connection to.")
    url: SecretStr = Field(description="Where batches are posted: https://host/path")
    secret: SecretStr | None = Field(
        None, description="Signs each request (HMAC-SHA256), so that the endpoint can trust it."
    )
    bearer_token: SecretStr | None = Field(None, description="Sent as `Authorization: Bearer`.")
    timeout_seconds: float = Field(60, gt=0, description="How long an answer is waited for.")


class PythonConnection(ConnectionPart):
    """A function of one's own, in a package that is installed with the workers."""

    kind: Literal["python"] = Field(description="What it is a connection to.")
    function: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="`package.module:function`."
    )


class StripeConnection(ConnectionPart):
    """Stripe. The table may be there already, but no source reads it yet."""

    kind: Literal["stripe"] = Field(description="What it is a connection to.")
    api_key: SecretStr = Field(description="A restricted key that may read customers.")
    api_base: str | None = Field(None, description="Another server than Stripe's: http://host:port")
    no_source_because: ClassVar[str] = "no source reads Stripe yet"


Connection = (
    PostgresConnection
    | GoogleAdsConnection
    | DataManagerConnection
    | MetaConnection
    | TokenConnection
    | HttpConnection
    | PythonConnection
    | S3Connection
    | StripeConnection
)
KINDS: dict[str, type[Connection]] = {
    "postgres": PostgresConnection,
    "google_ads": GoogleAdsConnection,
    "data_manager": DataManagerConnection,
    "meta": MetaConnection,
    **dict.fromkeys(routes.PLAIN_AUDIENCES, TokenConnection),
    "http": HttpConnection,
    "python": PythonConnection,
    "s3": S3Connection,
    "stripe": StripeConnection,
}
