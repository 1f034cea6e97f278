"""Text that users wrote, in whatever editor: bytes to a string, or one sentence that says how to save the file.

    decode_text(b"\\xef\\xbb\\xbf0\\tbackground\\r\\n", "classes.txt")        # "0\\tbackground\\n"

A byte order mark says which encoding follows; without one the file is UTF-8.
"""

import codecs
import re

from foodseg.errors import UserError

_MARKED = (  # the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MARK_IN_LINE = re.compile("(?m)^\ufeff+")  # files with a mark that were put one behind the other
_SAVE = "save it as UTF-8 (in Windows Notepad: Save as, Encoding UTF-8)"


def decode_text(data: bytes, where: str) -> str:
    """Returns the text without byte order marks; every line ends with a line feed, also those of Windows and old Macs.

    Args:
        data: UTF-8 with or without a byte order mark, or UTF-16 or UTF-32 with one.
        where: names the file in errors.

    Raises:
        UserError: another encoding, or NUL bytes, as in UTF-16 without a mark and in files that are not text.
    """
    mark, encoding = next(((mark, name) for mark, name in _MARKED if data.startswith(mark)), (b"", "utf-8"))
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start + len(mark)
        spelled = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        found = f"byte {at} (0x{data[at]:02x}) is not {spelled}"
        raise UserError(f"cannot read {where} as text: {found}; {_SAVE}") from None
    if "\0" in text:
        at = data.index(b"\0")
        kind = "UTF-16 without a byte order mark?" if data[:at].isascii() and at < 4 else "is it a text file?"
        raise UserError(f"cannot read {where} as text: byte {at} is NUL ({kind}); {_SAVE}")
    return _MARK_IN_LINE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
