"""Files at plain paths, `file://` and `s3://`: the functions of `files` under one name.

from foodseg import storage
storage.write_text("s3://runs/r1/note.txt", "hello")
"""

from foodseg.storage.conditional import create_bytes, read_versioned, replace_bytes
from foodseg.storage.files import (
    absolute,
    append_line,
    delete,
    download,
    exists,
    expect,
    is_local,
    join,
    list_names,
    list_tree,
    open_input,
    read_bytes,
    read_text,
    redact,
    retry_for,
    upload,
    uri_encoded,
    without_query,
    write_bytes,
    write_json,
    write_text,
)

__all__ = [
    "absolute",
    "append_line",
    "create_bytes",
    "delete",
    "download",
    "exists",
    "expect",
    "is_local",
    "join",
    "list_names",
    "list_tree",
    "open_input",
    "retry_for",
    "read_bytes",
    "read_text",
    "read_versioned",
    "redact",
    "replace_bytes",
    "upload",
    "uri_encoded",
    "without_query",
    "write_bytes",
    "write_json",
    "write_text",
]
