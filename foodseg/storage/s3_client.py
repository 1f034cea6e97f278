"""S3 clients (boto3), what is retried for how long, and what errors mean.

Who asks and which server answers comes from boto3: its credential chain (environment, profiles, SSO, web identity,
roles of an instance) and its endpoint (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, profile), unless the URI says so. One
client serves all threads of a process; clients never travel between processes.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore
from botocore import exceptions
from botocore.config import Config

from foodseg.errors import MissingFile, RetryLater, UserError
from foodseg.storage import local
from foodseg.storage.uris import Endpoint, parse, redact

RETRY_SECONDS = 90.0  # an endpoint that has answered may restart
FIRST_CONTACT_SECONDS = 10.0  # one that never answered is nearly always a wrong address
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0
SERVER_ERROR = 500
MOST_REDIRECTS = 3  # one within the other

_LOG = logging.getLogger("foodseg.storage")
_ANSWERED: set[str] = set()  # endpoints that have answered in this process
_CREATING = threading.Lock()
MISSING = ("NoSuchKey", "404")
_FORBIDDEN = ("401", "403", "400", "AccessDenied", "Forbidden", "BadRequest")
_UNKNOWN_KEY = ("InvalidAccessKeyId", "UnrecognizedClientException", "InvalidClientTokenId")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_BUSY = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "RequestLimitExceeded", "Throttling",
         "ThrottlingException", "TooManyRequests", "TooManyRequestsException", "BandwidthLimitExceeded", "429",
         "OperationAborted", "ConditionalRequestConflict", "409")  # fmt: skip
_ELSEWHERE = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307")
T = TypeVar("T")


class Refused(Exception):
    """A mistake that no server needs to be asked about; its text says what would be right."""


@dataclass(frozen=True)
class Target:
    """One bucket and key at one server; `extra`: parameters of every request."""

    client: Any  # boto3 makes its classes at run time
    bucket: str
    key: str
    extra: dict[str, str]

    @property
    def url(self) -> str:
        return str(self.client.meta.endpoint_url)

    @property
    def where(self) -> dict[str, str]:
        """The parameters of a request for the object."""
        return {"Bucket": self.bucket, "Key": self.key, **self.extra}


def target_of(uri: str) -> Target:
    """The target of an s3 URI. UserError: a malformed URI or endpoint, an unknown profile, half a pair of keys."""
    parsed = parse(uri)
    extra = {"RequestPayer": "requester"} if parsed.endpoint.requester_pays else {}
    # of another environment, and in a forked process, it is another client
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _CREATING:
        client = _client(parsed.endpoint, environment, os.getpid())
    return Target(client, parsed.bucket, parsed.key, extra)


@lru_cache(maxsize=16)
def _client(endpoint: Endpoint, environment: tuple[tuple[str, str], ...], process: int) -> Any:
    given = {}
    if endpoint.access_key:
        given = {"aws_access_key_id": endpoint.access_key, "aws_secret_access_key": endpoint.secret_key}
    anonymous = {"signature_version": botocore.UNSIGNED} if endpoint.anonymous else {}
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=32,
        tcp_keepalive=True,
        # many servers that are not Amazon's refuse the checksums that boto3 adds of its own accord
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **anonymous,
    )
    try:
        session = boto3.Session()
        region = endpoint.region or os.environ.get("AWS_REGION") or session.region_name
        client = session.client(
            "s3", endpoint_url=endpoint.url or None, region_name=region or "us-east-1", config=config, **given
        )
        _limit_redirects(client)
        return client
    except ValueError:  # botocore: Invalid endpoint
        url = endpoint.url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        raise UserError(f"S3 endpoint {redact(url)}: write it as http://host:port or https://host") from None
    except exceptions.BotoCoreError as error:
        raise UserError(_of_chain(error, "S3") or f"cannot begin with S3: {error}") from None


def _limit_redirects(client: Any) -> None:
    """botocore follows a redirect by asking for the bucket's region, and would follow that answer's redirects too."""
    depth = threading.local()

    def asks(**_: object) -> None:
        depth.now = getattr(depth, "now", 0) + 1
        if depth.now > MOST_REDIRECTS:
            depth.now = 0
            url = redact(str(client.meta.endpoint_url))
            raise Refused(f"{url} answers with redirects without end; correct AWS_REGION or AWS_ENDPOINT_URL")

    def has_asked(**_: object) -> None:
        depth.now = max(0, getattr(depth, "now", 0) - 1)

    client.meta.events.register("before-call.s3.HeadBucket", asks)
    client.meta.events.register("after-call.s3.HeadBucket", has_asked)
    client.meta.events.register("after-call-error.s3.HeadBucket", has_asked)


def expect(uri: str) -> None:
    """Notes that the endpoint has answered another process, so that silence does not count as a wrong address."""
    _ANSWERED.add(target_of(uri).url)


def with_retries(uri: str, verb: str, operation: Callable[[Target], T]) -> T:
    """Runs an S3 operation, again and again while the failure looks temporary.

    boto3 itself retries each request for a few seconds.

    Raises:
        UserError: a mistake, or an endpoint that never answered. RetryLater: it does not answer any more.
    """
    target = target_of(uri)
    began, delay = time.monotonic(), FIRST_DELAY
    while True:
        try:
            result = operation(target)
        except (exceptions.BotoCoreError, exceptions.ClientError, OSError, Refused) as error:
            if isinstance(error, exceptions.ClientError):
                _ANSWERED.add(target.url)
            wrong = local.mistake(error) or mistake(error, target)
            if wrong:
                kind = MissingFile if wrong == local.NO_SUCH_FILE else UserError
                raise kind(f"cannot {verb} {redact(uri)}: {wrong}") from None
            known, reason = target.url in _ANSWERED, reason_of(error)
            limit = RETRY_SECONDS if known else min(RETRY_SECONDS, FIRST_CONTACT_SECONDS)
            if time.monotonic() - began + delay > limit:
                where = f"cannot {verb} {redact(uri)}: {name_of(target)}"
                if known:
                    advice = "run the same command again when it is back"
                    raise RetryLater(f"{where} failed for {limit:.0f} s ({reason}); {advice}") from None
                advice = "start that server or correct AWS_ENDPOINT_URL (http or https, host, port)"
                raise UserError(f"{where} is not reachable ({reason}); {advice}") from None
            _LOG.warning("cannot %s %s (%s); trying again in %.1f s", verb, redact(uri), reason, delay)
            time.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)
        else:
            _ANSWERED.add(target.url)
            return result


def until_answered(operation: Callable[[], T], seconds: float) -> T:
    """Calls again what gives RetryLater, for `seconds`; for those who have nothing else to do. RetryLater."""
    began = time.monotonic()
    while True:
        try:
            return operation()
        except RetryLater as error:
            if time.monotonic() - began > seconds:
                raise
            _LOG.warning("%s; trying again", error)
            time.sleep(min(seconds, LONGEST_DELAY))


def name_of(target: Target) -> str:
    """How messages call the server."""
    host = urlsplit(target.url).hostname or ""
    return "Amazon S3" if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else redact(target.url)


def code_of(error: Exception) -> str:
    """The code of an answer, such as NoSuchKey; of a HEAD answer the HTTP status; "" if it is not an answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, exceptions.ClientError) else ""


def reason_of(error: Exception) -> str:
    """What a message says in brackets."""
    if not isinstance(error, exceptions.ClientError):
        return redact(str(error))
    said = error.response.get("Error", {})
    return redact(": ".join(filter(None, (str(said.get("Code", "")), str(said.get("Message", ""))))))


def mistake(error: Exception, target: Target) -> str | None:
    """What the user did wrong and what would be right; None if the failure may pass."""
    if isinstance(error, Refused):
        return str(error)
    if not isinstance(error, exceptions.ClientError):
        return _of_chain(error, name_of(target))
    if code_of(error) in _FORBIDDEN:
        error = _asked_again(error, target)  # a HEAD answer has no body, which would say what is wrong
    code, server, said = code_of(error), name_of(target), vars(error)["response"]
    answer = said.get("ResponseMetadata", {})
    status = answer.get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return f"there is no bucket {target.bucket} at {server}; create it or correct the name"
    if code in MISSING:
        return local.NO_SUCH_FILE
    if code == "SignatureDoesNotMatch":
        return f"{server}: this secret is not that of key {_key(target)}; correct AWS_SECRET_ACCESS_KEY"
    if code in _UNKNOWN_KEY:
        return f"{server} does not know the key {_key(target)}; correct AWS_ACCESS_KEY_ID"
    if code in _EXPIRED:
        return f"the session token for {server} has expired; renew AWS_SESSION_TOKEN"
    if code == "RequestTimeTooSkewed":
        return f"the clock of this machine differs too much from that of {server}; set it right"
    if code in _BUSY or status >= SERVER_ERROR:
        return None
    if code in _ELSEWHERE:
        found = said["Error"].get("Region") or answer.get("HTTPHeaders", {}).get("x-amz-bucket-region")
        right = f"set AWS_REGION={found}" if found else "correct AWS_REGION or AWS_ENDPOINT_URL"
        return f"{server} answers that the bucket {target.bucket} is elsewhere ({reason_of(error)}); {right}"
    if status in (401, 403):
        key = _key(target)
        if key is None:
            return f"{server} wants credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return f"{server} denies it to the key {key}; give that key the right on bucket {target.bucket}"
    return f"{server} answers {reason_of(error)}; is that an S3 endpoint, and AWS_REGION right?"


def _of_chain(error: Exception, server: str) -> str | None:
    """A mistake that boto3 finds before it asks the server; None if it is of another kind."""
    if isinstance(error, exceptions.NoCredentialsError):
        return f"{server} wants credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if isinstance(error, exceptions.PartialCredentialsError):
        return "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; only one of them is there"
    if isinstance(error, (exceptions.SSOError, exceptions.TokenRetrievalError)):
        return f"the sign-in of this profile is not valid ({error}); run `aws sso login` again"
    if isinstance(error, exceptions.SSLError):
        return f"{error}; correct AWS_ENDPOINT_URL, or name the certificates in AWS_CA_BUNDLE"
    passing = (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.CredentialRetrievalError,
               exceptions.IncompleteReadError)  # fmt: skip
    if isinstance(error, exceptions.BotoCoreError) and not isinstance(error, passing):
        return f"{error}; correct the settings of this access (AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL)"
    return None


def _key(target: Target) -> str | None:
    """The id of the key that requests are signed with; None for anonymous ones."""
    if target.client.meta.config.signature_version is botocore.UNSIGNED:
        return None
    credentials = target.client._get_credentials()
    return None if credentials is None else str(credentials.access_key)


def _asked_again(error: exceptions.ClientError, target: Target) -> exceptions.ClientError:
    """A listing of the key's name: who may do that has a wrong right, or the first answer was already in words."""
    try:
        target.client.list_objects_v2(Bucket=target.bucket, Prefix=target.key, MaxKeys=1, **target.extra)
    except exceptions.ClientError as said:
        return said
    except exceptions.BotoCoreError:
        pass
    return error
