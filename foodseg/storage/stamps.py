"""Says whether files may have changed, without reading them.

before = storage.list_stamps("my/meals/images")        # {"a.jpg": "48211 1730447040123456789", ...}
"""

import os
from pathlib import Path

from foodseg.storage import local
from foodseg.storage.s3_client import Target, with_retries
from foodseg.storage.uris import absolute, is_local


def list_stamps(uri: str) -> dict[str, str]:
    """Returns for each file in a folder a text that is another one once the file is replaced; {} without a folder.

    It is made of size and ETag in S3, of size and time of the last change on a disk.

    Raises:
        UserError: it is a file, or may not be listed. RetryLater: the storage does not answer.
    """
    if not is_local(uri):
        return with_retries(uri, "list", _objects)
    folder = Path(absolute(uri))
    with local.errors(uri, "list"):
        if not folder.exists():
            return {}
        with os.scandir(folder) as entries:
            return {entry.name: _stamp(entry) for entry in entries}


def _objects(target: Target) -> dict[str, str]:
    prefix = f"{target.key}/" if target.key else ""
    pages = target.client.get_paginator("list_objects_v2").paginate(
        Bucket=target.bucket, Prefix=prefix, Delimiter="/", **target.extra
    )
    found = (one for page in pages for one in page.get("Contents", ()))
    return {one["Key"][len(prefix) :]: f"{one['Size']} {one['ETag']}" for one in found}


def _stamp(entry: os.DirEntry[str]) -> str:
    try:
        found = entry.stat()
    except FileNotFoundError:  # a link that leads nowhere
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"
