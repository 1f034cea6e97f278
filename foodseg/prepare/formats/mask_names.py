"""Matches masks with images by their names.

    match_masks(["a.jpg", "b.jpg"], ["a_mask.png", "b_mask.png"]).masks      # {"a.jpg": "a_mask.png", ...}

The rule is the same name, `x.jpg` and `x.png`, in the same subfolder. Where that leaves images without mask and masks
without image, other rules are tried for the whole set: the image's name with its extension, the same name in another
folder, and a constant prefix or suffix (`x_mask.png`, `gt_x.png`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from foodseg.prepare.formats.file_index import fold
from foodseg.prepare.formats.layout import without_extension

EXTENSIONS = (".png", ".tif", ".tiff", ".bmp", ".webp", ".jpg", ".jpeg")
"""What a mask may be saved as; JPEG is listed so that it is refused by name: it blurs ids."""

_LOSSY = (".jpg", ".jpeg")
_TRIED = 50  # masks in which a constant prefix or suffix is searched
_SHARE = 0.8  # of the remaining masks or images, which a prefix or suffix has to explain


@dataclass
class Matching:
    """The result of `match_masks`.

    Attributes:
        masks: path of the mask by path of the image.
        unclear: images that several masks fit, with two of these masks.
        unused: masks that belong to no image.
        rules: how masks with another name than their image were found; a sentence each.
        rivals: two masks of one image, by two suffixes, either of which could be meant for all images.
    """

    masks: dict[str, str] = field(default_factory=dict)
    unclear: dict[str, tuple[str, str]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    rivals: tuple[str, str] | None = None


def match_masks(images: Iterable[str], masks: Iterable[str]) -> Matching:
    """Matches paths of images and paths of masks, each below its own folder."""
    found = Matching()
    images, left = list(dict.fromkeys(images)), _lossless(masks)
    rules: tuple[tuple[str, Callable[[str], str], Callable[[str], str]], ...] = (
        ("", without_extension, without_extension),
        ("", lambda image: fold(without_extension(image)), lambda mask: fold(without_extension(mask))),
        ("the name of the image with its extension", fold, lambda mask: fold(without_extension(mask))),
        ("the name of the image, in another folder", _stem, _stem),
        (
            "the folder of the image in its name",
            lambda image: _flat(without_extension(image)),
            lambda mask: _flat(_stem(mask)),
        ),
    )
    for rule, of_image, of_mask in rules:
        without = [image for image in images if image not in found.masks and image not in found.unclear]
        if not without or not left:
            break
        _by_key(found, without, left, rule, of_image, of_mask)
        used = set(found.masks.values())
        left = [mask for mask in left if mask not in used]
    without = [image for image in images if image not in found.masks and image not in found.unclear]
    if without and left:
        _by_affix(found, without, left)
    used = set(found.masks.values()) | {mask for pair in found.unclear.values() for mask in pair}
    found.unused = [mask for mask in left if mask not in used]
    return found


def _lossless(masks: Iterable[str]) -> list[str]:
    """Returns the masks without those JPEGs that have a lossless file of the same name: they only show it."""
    whole = list(dict.fromkeys(masks))
    if not any(mask.lower().endswith(_LOSSY) for mask in whole):
        return whole
    exact = {without_extension(mask) for mask in whole if not mask.lower().endswith(_LOSSY)}
    return [mask for mask in whole if not (mask.lower().endswith(_LOSSY) and without_extension(mask) in exact)]


def _by_key(
    found: Matching, images: Sequence[str], masks: Sequence[str], rule: str, of_image: Callable[[str], str],
    of_mask: Callable[[str], str],
) -> None:  # fmt: skip
    by_key = defaultdict(list)
    images_of = Counter(map(of_image, images)) if rule else Counter[str]()
    for mask in masks:
        by_key[of_mask(mask)].append(mask)
    first = None
    for image in images:
        fitting = by_key.get(of_image(image), [])
        if not fitting or (rule and (len(fitting) > 1 or images_of[of_image(image)] > 1)):
            continue
        if len(fitting) > 1:
            found.unclear[image] = (fitting[0], fitting[1])
            continue
        found.masks[image] = fitting[0]
        first = first or (fitting[0], image)
    if rule and first:
        found.rules.append(f"masks are named by {rule}, such as {first[0]} for {first[1]}")


def _by_affix(found: Matching, images: Sequence[str], masks: Sequence[str]) -> None:
    """Matches by a constant prefix or suffix of the names of the masks, or of both sides."""
    tried = [_with(images, masks, before, behind) for before, behind in _affixes(images, masks)]
    tried.append(_by_cores(images, masks))
    tried.sort(key=len, reverse=True)
    best = tried[0]
    if len(best) < max(1, _SHARE * min(len(images), len(masks))):
        return
    if len(best) == 1 and min(len(images), len(masks)) > 1:
        return
    for other in tried[1:]:
        differing = [image for image in best if image in other and other[image] != best[image]]
        if 2 * len(differing) >= len(best):
            found.rivals = (best[differing[0]], other[differing[0]])
            return
    found.masks |= best
    image, mask = next(iter(best.items()))
    found.rules.append(f"masks have another name than their images, by one rule: {mask} for {image}")


def _affixes(images: Sequence[str], masks: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the prefixes and suffixes that turn the name of an image into that of a mask, the commonest first."""
    counts: Counter[tuple[str, str]] = Counter()
    stems = sorted({_stem(image) for image in images})
    for mask in masks[:_TRIED]:
        name = _stem(mask)
        for stem in stems:
            at = name.find(stem)
            if at < 0:
                continue
            before, behind = name[:at], name[at + len(stem) :]
            # another number is another image, and a number alone would be one of several masks of an image
            cut = ((before[-1:] + stem[:1]).isdecimal() and before) or ((stem[-1:] + behind[:1]).isdecimal() and behind)
            if not cut and any(character.isalpha() for character in before + behind):
                counts[before, behind] += 1
    return [affix for affix, _ in counts.most_common(20)]


def _with(images: Sequence[str], masks: Sequence[str], before: str, behind: str) -> dict[str, str]:
    by_name = defaultdict(list)
    for mask in masks:
        by_name[_stem(mask)].append(mask)
    found = {}
    for image in images:
        fitting = by_name.get(f"{before}{_stem(image)}{behind}", [])
        here = [mask for mask in fitting if _folder(mask) == _folder(image)]
        if len(here) == 1 or len(fitting) == 1:
            found[image] = here[0] if len(here) == 1 else fitting[0]
    return found if len(set(found.values())) == len(found) else {}


def _by_cores(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    """Matches the names without the prefixes and suffixes that all images, and all masks, share."""
    of_image, of_mask = _cores([_stem(image) for image in images]), _cores([_stem(mask) for mask in masks])
    if len(set(of_image)) < len(images) or len(set(of_mask)) < len(masks) or min(len(images), len(masks)) < 2:
        return {}
    by_core = dict(zip(of_mask, masks, strict=True))
    return {image: by_core[core] for image, core in zip(images, of_image, strict=True) if core in by_core}


def _cores(names: Sequence[str]) -> list[str]:
    """Cuts off the prefix and suffix that all names share, but never part of a number."""
    first, last = min(names), max(names)
    start = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    while start and first[start - 1].isdecimal():
        start -= 1
    turned = [name[start:][::-1] for name in names]
    first, last = min(turned), max(turned)
    end = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    while end and first[end - 1].isdecimal():
        end -= 1
    return [name[end:][::-1] for name in turned]


def _stem(path: str) -> str:
    return fold(without_extension(path.rsplit("/", 1)[-1]))


def _folder(path: str) -> str:
    return fold(path.rpartition("/")[0])


def _flat(path: str) -> str:
    """Returns the path with folders, dashes and underscores all separated by one underscore."""
    return fold("_".join(part for part in path.replace("/", "_").replace("-", "_").split("_") if part))
