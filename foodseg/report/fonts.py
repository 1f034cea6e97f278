"""Text in drawings, in any script: the fonts that are installed with foodseg, and which letters they have.

    draw_text(ImageDraw.Draw(image), (4, 11), "white rice", 14, fill=(0, 0, 0))
    if not is_legible(name): ...        # no font here has its letters

Pillow's own font has Latin letters; the Noto fonts of two packages have those of most scripts. Scripts whose letters
connect or change their order (Arabic, Hebrew, those of India) also need the library FriBidi, which Pillow takes from
the system: without it they are not legible.
"""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import as_file, files

from PIL import ImageDraw, ImageFont, features

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
UNKNOWN = "?"  # replaces a letter that no font has
_OWN = ""  # Pillow's font
# the most used ones first, since the first font that has a letter draws it
_FONTS = (
    _OWN,
    *(
        f"manimgx_fonts/NotoSans{script}[wght].ttf"
        for script in (
            "", "Arabic", "Hebrew", "Thai", "Devanagari", "Bengali", "Tamil", "Telugu", "Kannada", "Malayalam",
            "Gujarati", "Gurmukhi", "Oriya", "Sinhala", "Khmer", "Lao", "Myanmar", "Georgian", "Armenian", "Ethiopic",
        )
    ),
    "manimgx_fonts_cjk/NotoSansCJK-VF.otf.ttc",
    "manimgx_fonts/NotoEmoji[wght].ttf",
    "manimgx_fonts/NotoSansSymbols[wght].ttf",
)  # fmt: skip
_PROBE = 20  # size in pixels at which letters are drawn to see whether a font has them
_NO_LETTER = "\U0010fffe"
# Brahmic scripts from Devanagari to Sinhala, Tibetan and Myanmar, Khmer
_REORDERED = ((0x0900, 0x0DFF), (0x0F00, 0x109F), (0x1780, 0x17FF))


def is_legible(text: str) -> bool:
    """True where every letter of the text can be drawn correctly."""
    return all(_font_of(letter) is not None for letter in _printable(text))


def as_legible(text: str) -> str:
    """Returns the text with UNKNOWN for each letter that cannot be drawn."""
    return "".join(UNKNOWN if _font_of(letter) is None else letter for letter in _printable(text))


def text_width(text: str, size: int) -> float:
    """Returns the width of a line of text in pixels, as `draw_text` draws it."""
    return sum(_load(name, size).getlength(part) for name, part in _runs(text))


def draw_text(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, fill: tuple[int, int, int]
) -> None:
    """Draws one line of text; letters that cannot be drawn become UNKNOWN.

    Args:
        at: (x, y) of the left end of the line, and of its middle. size: of the letters in pixels.
    """
    left, middle = at
    runs = list(_runs(text))
    for name, part in runs:
        font = _load(name, size)
        if name == _OWN:
            draw.text((left, middle), part, fill=fill, font=font, anchor="lm")
        else:  # fonts differ in their heights: adjacent letters share one baseline
            draw.text((left, middle + 0.36 * size), part, fill=fill, font=font, anchor="ls")
        left += font.getlength(part)


def shortened(text: str, longest: int) -> str:
    """Returns the text, cut to `longest` characters with "..." where it is longer, and never within a letter."""
    if len(text) <= longest:
        return text
    end = longest - 3
    while end > 1 and (unicodedata.combining(text[end]) or _joins(text[end]) or _joins(text[end - 1])):
        end -= 1
    return text[:end] + "..."


def _printable(text: str) -> str:
    """Returns the text in composed letters, without line ends and other controls."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(" " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter for letter in composed)


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """Yields (font, part) in order; one font for the whole where one has all of it."""
    letters = as_legible(text)
    letters = "".join(
        letter for letter in letters if not "\ufe00" <= letter <= "\ufe0f"
    )  # colour or plain: all are plain
    whole = next((name for name in _FONTS if all(_has(name, letter) for letter in letters)), None)
    if whole is not None:
        yield whole, letters
        return
    name, start = None, 0
    for at, letter in enumerate(letters):
        found = name if name is not None and (letter == " " or _joins(letter)) else _font_of(letter)
        if name is not None and _has(name, letter):
            found = name  # digits and marks keep the font of their word
        if found != name and name is not None:
            yield name, letters[start:at]
            start = at
        name = found
    if name is not None:
        yield name, letters[start:]


@lru_cache(maxsize=65536)
def _font_of(letter: str) -> str | None:
    """Names the first font that has a letter; None where no font has it, or its script cannot be laid out here."""
    if _is_complex(letter) and not features.check_feature("fribidi"):
        return None
    return next((name for name in _FONTS if _has(name, letter)), None)


@lru_cache(maxsize=65536)
def _has(name: str, letter: str) -> bool:
    """True where a font has a letter: a missing one is drawn like a letter that no font has."""
    if letter == " " or _joins(letter):
        return True
    try:
        font = _load(name, _PROBE)
    except (ImportError, OSError):  # the package is not installed
        return False
    drawn = font.getmask(letter)
    lacking = font.getmask(_NO_LETTER)
    return drawn.size != lacking.size or bytes(drawn) != bytes(lacking)


@lru_cache(maxsize=64)
def _load(name: str, size: int) -> Font:
    if name == _OWN:
        return ImageFont.load_default(size)
    package, _, file = name.partition("/")
    with as_file(files(package) / file) as path:
        font = ImageFont.truetype(str(path), size)
    font.set_variation_by_axes([400])  # the lightest weight is the default of some
    return font


def _joins(letter: str) -> bool:
    """True for what has no shape of its own: joiners and selectors of variants."""
    return unicodedata.category(letter) == "Cf" or "\ufe00" <= letter <= "\ufe0f"


def _is_complex(letter: str) -> bool:
    if unicodedata.bidirectional(letter) in ("R", "AL", "NSM") and not "\u0300" <= letter <= "\u036f":
        return unicodedata.bidirectional(letter) != "NSM" or "\u0590" <= letter <= "\u08ff"
    return any(first <= ord(letter) <= last for first, last in _REORDERED)
