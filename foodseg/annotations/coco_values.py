"""Numbers, ids and flags of COCO files, read by one rule: pandas, databases and JavaScript spell them differently.

A number may be written as a whole number, as a float without fraction (1.0: pandas does so in a column with a gap), or
as text of either, ignoring blanks around it ("1", "1.0", " 1 "). true and false are not numbers. Neither are floats of
2**53 or more: they may have been rounded, and two ids would become one. Other text is an id as written.
"""

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

Id = int | str

_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.0*)?")
_EXACT = 2**53
_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no", "none", "null", "nan")


def whole_number(value: Any) -> int | None:
    """Returns the whole number that `value` spells; None where it is not a number."""
    if type(value) is int:
        return value
    if type(value) is float:
        return int(value) if abs(value) < _EXACT and value.is_integer() else None
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    return None


def identifier(value: Any) -> Id | None:
    """Returns an id: the whole number that `value` spells, else a text without blanks around it; None = no id."""
    number = whole_number(value)
    if number is not None:
        return number
    return (value.strip() or None) if isinstance(value, str) and not _is_fraction(value) else None


def flag(value: Any) -> bool | None:
    """Returns an `iscrowd` as bool, in any spelling; missing, null and NaN are False. None = it is neither 0 nor 1."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, float) and math.isnan(value):
        return False
    number = whole_number(value)
    if number in (0, 1):
        return bool(number)
    text = value.strip().lower() if isinstance(value, str) else "?"
    return True if text in _TRUE else False if text in _FALSE else None


def is_missing(value: Any) -> bool:
    """True for null, NaN (pandas' null) and empty text."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or value == ""


def near_key(keys: Iterable[str], wanted: str) -> str | None:
    """Returns which of the keys is `wanted` in another spelling ("imageId" is "image_id"), or looks most like it."""
    squeezed = {_squeeze(key): key for key in keys if key != wanted}
    near = difflib.get_close_matches(_squeeze(wanted), list(squeezed), n=1, cutoff=0.65)
    return squeezed[near[0]] if near else None


def _squeeze(key: str) -> str:
    return "".join(letter for letter in key.lower() if letter.isalnum())


def _is_fraction(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?[0-9]*\.[0-9]+\s*", text) is not None
