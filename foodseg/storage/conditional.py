"""Writes that happen only if a file is still as the writer believes: of several writers at once, one alone succeeds.

    created = storage.create_bytes(uri, data)                    # False: a file is there already
    data, version = storage.read_versioned(uri)
    replaced = storage.replace_bytes(uri, newer, version)        # False: it has been written since

On S3 the server decides (If-None-Match, If-Match). On a disk a new file is linked into its place, and a replacement
locks the folder; only writers that use these functions are kept apart there.
"""

import hashlib
import uuid
from pathlib import Path

from botocore import exceptions

from foodseg.storage import local, s3
from foodseg.storage.s3_client import MISSING, Target, code_of, with_retries
from foodseg.storage.uris import absolute, is_local

_WRITER = "foodseg-writer"  # metadata of an object: tells a lost answer to an own write from a write of somebody else


def create_bytes(uri: str, data: bytes) -> bool:
    """Writes a new file, whole or not at all; False, and nothing is written, if one is there already.

    Raises:
        UserError, RetryLater: as `storage.write_bytes`.
    """
    if is_local(uri):
        with local.errors(uri, "write"):
            return local.create(Path(absolute(uri)), data)
    return _put(uri, data, {"IfNoneMatch": "*"})


def read_versioned(uri: str) -> tuple[bytes, str]:
    """Returns the whole file, and its version for `replace_bytes`: an ETag on S3, a SHA-256 on a disk.

    Raises:
        UserError, RetryLater: as `storage.read_bytes`.
    """
    if is_local(uri):
        with local.errors(uri, "read"):
            data = Path(absolute(uri)).read_bytes()
        return data, hashlib.sha256(data).hexdigest()

    return with_retries(uri, "read", s3.get)


def replace_bytes(uri: str, data: bytes, version: str) -> bool:
    """Replaces a file in one step; False, and nothing is written, if it is not that version any more, or gone.

    Raises:
        UserError, RetryLater: as `storage.write_bytes`.
    """
    if is_local(uri):
        with local.errors(uri, "write"):
            return local.replace(Path(absolute(uri)), data, version)
    return _put(uri, data, {"IfMatch": version})


def _put(uri: str, data: bytes, condition: dict[str, str]) -> bool:
    own = uuid.uuid4().hex

    def put(target: Target) -> bool:
        s3.require_key(target)
        try:
            target.client.put_object(Body=data, Metadata={_WRITER: own}, **condition, **target.where)
        except exceptions.ClientError as error:
            # 404: what should be replaced is gone
            if code_of(error) not in ("PreconditionFailed", "412", *MISSING):
                raise
        else:
            return True
        try:  # an attempt before may have written it, and its answer was lost
            found = target.client.head_object(**target.where)
        except exceptions.ClientError as error:
            if code_of(error) not in MISSING:
                raise
            return False
        return bool(found["Metadata"].get(_WRITER) == own)

    return with_retries(uri, "write", put)
