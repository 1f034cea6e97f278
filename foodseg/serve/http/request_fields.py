"""Maps the fields that a client sent to those that a path knows, and finds the one image among them.

    fields = arrange(parts, ("image", "format", "ingredients"), query)
    fields.image, fields.texts["format"], fields.notes

An unambiguous field is accepted (the only file, whatever its name); an unknown or ambiguous one is refused.
"""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from foodseg.serve.http.base64_image import image_in_file, image_of_text, looks_like_image
from foodseg.serve.http.request_body import Part
from foodseg.serve.http.schema import MAX_FIELD, ApiError

IMAGE = "image"
REPEATABLE = ("ingredients", "names")  # fields that may be sent once for each name


@dataclass
class Arranged:
    """image: bytes of the image, None = no image came. texts, files: by known field. notes: what was interpreted."""

    image: bytes | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def arrange(
    parts: Sequence[Part], known: Sequence[str], query: Iterable[tuple[str, str]] = (), files: Sequence[str] = ()
) -> Arranged:
    """Sorts what was sent. known: the fields of the path, `image` among them. query: parameters of the address.

    files: those of the known fields besides `image` that are files; text in one is taken as its content.

    Raises:
        ApiError: 422, a field that the path does not know, one that was sent twice, several images, or text where
            the image should be.
    """
    found = Arranged()
    images: list[tuple[str, bytes]] = []
    texts: dict[str, list[str]] = {}
    unknown: list[Part] = []
    for part in (*parts, *(Part(name, value) for name, value in query)):
        name = _plain_name(part.name)
        if part.filename == "" and part.value == b"":
            continue  # a browser's form in which nobody chose a file
        if name == IMAGE and part.value == "":
            continue
        if name in files:
            data = part.value.encode("utf-8", "surrogatepass") if isinstance(part.value, str) else part.value
            if found.files.setdefault(name, data) != data:
                raise ApiError(422, "sent_twice", f"{name} was sent twice with different contents")
        elif name in known and name != IMAGE:
            texts.setdefault(name, []).append(_field_text(name, part.value))
        elif name == IMAGE or isinstance(part.value, bytes) or looks_like_image(part.value):
            images.append((part.name, _image(part, found.notes)))
            if name != IMAGE:
                found.notes.append(f"field {part.name[:40]!r} as image")
        else:
            unknown.append(part)
    if len(images) > 1:
        named = ", ".join(name[:40] for name, _ in images[:4])
        raise ApiError(422, "several_images", f"{len(images)} images came ({named}); one request takes one")
    if unknown:
        raise _unknown(unknown[0], known)
    found.image = images[0][1] if images else None
    found.texts = {name: _one(name, values) for name, values in texts.items()}
    return found


def described(parts: Sequence[Part], read_as: str) -> str:
    """Returns what came, for the message that it holds no image."""
    names = ", ".join(repr(part.name[:40]) for part in parts[:6])
    if not parts:
        return read_as
    return f"{read_as} with {'an empty ' if all(not part.value for part in parts) else ''}{names}"


def _image(part: Part, notes: list[str]) -> bytes:
    if isinstance(part.value, str):
        notes.append(f"text of {part.name[:40]!r} as an image")
        return image_of_text(part.value, part.name[:40])
    data = image_in_file(part.value)
    if data is not part.value:
        notes.append(f"text in the file {part.name[:40]!r} as an image")
    return data


def _field_text(name: str, value: str | bytes) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise ApiError(422, "invalid_request", f"{name} is a file that is not UTF-8 text") from None
    if len(value) > MAX_FIELD:
        raise ApiError(422, "field_too_long", f"{name} has more than {MAX_FIELD:,} characters")
    return value


def _one(name: str, values: list[str]) -> str:
    if len(set(values)) == 1:
        return values[0]
    if name in REPEATABLE and not any(value.lstrip().startswith("[") for value in values):
        return json.dumps([part.strip() for value in values for part in value.split(",")])
    raise ApiError(422, "sent_twice", f"{name} was sent {len(values)} times with different values")


def _plain_name(name: str) -> str:
    """Returns a normalised name: `Image`, `image[]` and ` image` become `image`."""
    return name.strip().removesuffix("[]").lower().replace("-", "_")


def _unknown(part: Part, known: Sequence[str]) -> ApiError:
    near = difflib.get_close_matches(_plain_name(part.name), known, 1, 0.7)
    meant = f"did you mean {near[0]}? " if near else ""
    return ApiError(
        422, "unknown_field", f"there is no field {part.name[:40]!r} here", f"{meant}the fields are {', '.join(known)}"
    )
