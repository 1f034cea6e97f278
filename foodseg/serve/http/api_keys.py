"""API keys: a file of hashes, which is read again every few seconds, or an environment variable.

    key=$(openssl rand -hex 24)
    printf 'canteen %s\n' "$(printf %s "$key" | sha256sum | cut -d' ' -f1)" >> keys.txt

A line of the file is a name and the SHA-256 of a key, in hex. Keys are random, so that a fast hash is enough. The name
appears in log lines and is part of the signature of image ids; several keys may have one name, so that a client can
change its key without downtime. Deleting a line revokes its key within 5 seconds, without a restart.
"""

import hashlib
import hmac
import ipaddress
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foodseg.config.serve import HttpConfig
from foodseg.errors import UserError
from foodseg.serve.http.schema import ApiError
from foodseg.storage.text_files import decode_text

ENVIRONMENT = "FOODSEG_API_KEYS"
REREAD_SECONDS = 3.0  # revocation is documented as 5 seconds
SHORTEST_KEY = 16

_LOG = logging.getLogger("foodseg.serve")
_LINE = re.compile(r"([A-Za-z0-9_.@-]{1,64})\s+([0-9a-fA-F]{64})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Key:
    """name: of the caller. digest: SHA-256 of the key, hex."""

    name: str
    digest: str


class Keys:
    """The keys that are valid now: of a file, which is read again after REREAD_SECONDS, or a fixed list."""

    def __init__(self, keys: tuple[Key, ...], path: Path | None = None) -> None:
        self._keys = keys
        self._path = path
        self._read_at = time.monotonic()
        self._said: str | None = None

    def owner(self, presented: bytes) -> str | None:
        """Returns the name that a key belongs to, or None.

        Raises:
            ApiError: 503 keys_unreadable: the file is gone, and old keys are not accepted.
        """
        digest = hashlib.sha256(presented).hexdigest()
        owner = None
        for key in self._current():
            # every key is compared, in constant time
            if hmac.compare_digest(digest, key.digest):
                owner = key.name
        return owner

    def _current(self) -> tuple[Key, ...]:
        if self._path is not None and time.monotonic() - self._read_at > REREAD_SECONDS:
            try:
                self._keys, wrong = _parse(self._path)
            except OSError as error:
                self._say(f"API keys: cannot read {self._path} ({error.strerror}); all requests are refused")
                raise ApiError(503, "keys_unreadable", "API keys cannot be checked now", retry_after=5.0) from None
            self._say(f"API keys: {wrong[0]}; unreadable lines are ignored" if wrong else None)
            self._read_at = time.monotonic()
        return self._keys

    def _say(self, sentence: str | None) -> None:
        if sentence is not None and sentence != self._said:
            _LOG.error(sentence)
        self._said = sentence


def keys_for(config: HttpConfig, environ: Mapping[str, str]) -> Keys | None:
    """Returns the keys of http.keys_file, else those of FOODSEG_API_KEYS; None = no key needed (loopback only).

    Raises:
        UserError: the file cannot be read or has a wrong line, a key of the environment is malformed, or there are no
            keys although other machines can reach the address.
    """
    if config.keys_file is not None:
        path = Path(config.keys_file).expanduser()
        try:
            keys, wrong = _parse(path)
        except OSError as error:
            raise UserError(f"http.keys_file: cannot read {path} ({error.strerror})") from None
        if wrong:
            raise UserError(f"http.keys_file: {wrong[0]}")
        if not keys:
            _LOG.warning("API keys: %s holds no key, so all requests are refused", path)
        return Keys(keys, path)
    listed = environ.get(ENVIRONMENT, "").strip()
    if listed:
        return Keys(tuple(_listed(entry) for entry in listed.split(",")))
    if not is_loopback(config.host):
        raise UserError(
            f"http.host {config.host} can be reached by others, so it needs API keys: set http.keys_file, or "
            f"{ENVIRONMENT}=name:key; or listen on 127.0.0.1"
        )
    _LOG.warning("no API keys: everybody on this machine may use the endpoint at %s", config.host)
    return None


def presented_key(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Returns the key of a request, from `Authorization: Bearer KEY` or `X-API-Key: KEY`; None if it has no key."""
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    found = value.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()
    return found or None


def is_loopback(host: str) -> bool:
    """True where only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _parse(path: Path) -> tuple[tuple[Key, ...], list[str]]:
    """Returns the keys of a file and a sentence for each line that is not one; skips blank lines and # comments.

    A byte that is not UTF-8 does not invalidate the other lines.
    """
    data, keys, wrong = path.read_bytes(), [], []
    try:
        text = decode_text(data, str(path))
    except UserError as error:
        text, wrong = data.decode("utf-8", errors="replace"), [str(error)]
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:  # the line is not shown, as it may hold the key instead of its hash
            wrong.append(f"{path}, line {number}: expected a name and the SHA-256 of a key (64 hex digits)")
        else:
            keys.append(Key(match[1], match[2].lower()))
    return tuple(keys), wrong


def _listed(entry: str) -> Key:
    name, separator, key = entry.strip().partition(":")
    if not separator or _NAME.fullmatch(name) is None or len(key) < SHORTEST_KEY or not key.isascii():
        raise UserError(
            f"{ENVIRONMENT}: expected name:key,name:key with random keys of at least {SHORTEST_KEY} characters, for "
            "example canteen:$(openssl rand -hex 24)"
        )
    return Key(name, hashlib.sha256(key.encode()).hexdigest())
