"""Files at plain paths, `file://` and `s3://`: the functions of `files` under one name.

from foodseg import storage
storage.write_text("s3://runs/r1/note.txt", "hello")
"""

from foodseg.storage.conditional import create_bytes, read_versioned, replace_bytes
from foodseg.storage.files import (
    append_line,
    delete,
    download,
    exists,
    expect,
    list_names,
    list_tree,
    open_input,
    read_bytes,
    read_text,
    upload,
    write_bytes,
    write_json,
    write_text,
)
from foodseg.storage.s3_client import until_answered
from foodseg.storage.stamps import list_stamps
from foodseg.storage.uris import absolute, is_hub, is_local, join, redact, without_query

__all__ = [
    "absolute",
    "append_line",
    "create_bytes",
    "delete",
    "download",
    "exists",
    "expect",
    "is_hub",
    "is_local",
    "join",
    "list_names",
    "list_stamps",
    "list_tree",
    "open_input",
    "read_bytes",
    "read_text",
    "read_versioned",
    "redact",
    "replace_bytes",
    "until_answered",
    "upload",
    "without_query",
    "write_bytes",
    "write_json",
    "write_text",
]
