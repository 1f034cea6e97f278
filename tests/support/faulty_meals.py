"""Some fifty faulty records, one of each kind and combinations, among valid ones: a data set in the folder format.

meals = write_faulty_meals(tmp_path / "meals")
meals.expected[("half_jpeg", "train")]          # {"truncated"}
meals.masks["transposed_mask"]                  # (H, W) uint8, the mask that fits the upright image

Files are written by Pillow, or by hand where Pillow cannot write such a file, never by foodseg.
"""

import io
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal

HEIGHT, WIDTH = 96, 144
FAULTS = 55
_T = Image.Transpose
# how an image is turned before it is stored, so that its EXIF orientation turns it back
_STORE = {3: _T.ROTATE_180, 6: _T.ROTATE_90}
ONE_CLASS = ("ignored_is_food", "hidden_annotation")  # findings that no data set of this kind can have


@dataclass
class FaultyMeals:
    """What was written.

    Attributes:
        expected: findings of each faulty record by (image_id, split), of a repeated id for the record that loses it.
        healthy: ids of the records without a finding, a repeated id for the record that keeps it.
        masks: the right mask of every labelled record that has to be taken.
    """

    folder: Path
    expected: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    healthy: list[str] = field(default_factory=list)
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=lambda: {"train": [], "val": [], "test": []})
    seed: int = 0

    def meal(self) -> tuple[np.ndarray, np.ndarray]:
        """Draws another image (HEIGHT, WIDTH, 3) uint8 and its mask."""
        self.seed += 1
        return draw_meal(self.seed, HEIGHT, WIDTH)

    def add(
        self, name: str, sample_image: bytes | None, mask: bytes | None, *findings: str, split: str = "train",
        extension: str = ".jpg", right_mask: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Writes a record; None = no such file."""
        if sample_image is not None:
            (self.folder / "images" / f"{name}{extension}").write_bytes(sample_image)
        if mask is not None:
            (self.folder / "masks" / f"{name}.png").write_bytes(mask)
        if right_mask is not None:
            self.masks[name] = right_mask
        self.listed(name, split, *findings)

    def listed(self, name: str, split: str, *findings: str) -> None:
        """Lists a record whose files are there."""
        self.lists[split].append(name)
        if findings:
            assert (name, split) not in self.expected
            self.expected[name, split] = set(findings)
        else:
            self.healthy.append(name)


def write_faulty_meals(folder: Path) -> FaultyMeals:
    """Writes the data set and says what an audit has to find in it: `FAULTS` records with findings, none elsewhere."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text(SYNTHETIC_CLASSES.to_text())
    meals = FaultyMeals(folder)
    for write in (_healthy, _bad_images, _bad_masks, _repeated, _turned, _converted, _combined):
        write(meals)
    assert len(meals.expected) == FAULTS, len(meals.expected)
    for split, names in meals.lists.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return meals


# --- groups of records ---


def _healthy(meals: FaultyMeals) -> None:
    for number in range(4):
        for split in ("train", "val", "test"):
            image, mask = meals.meal()
            meals.add(f"plain_{split}_{number}", jpeg(image), png(mask), split=split, right_mask=mask)
    image, mask = meals.meal()
    meals.add("bytes_after_the_end", jpeg(image) + bytes(500) + jpeg(image)[:300], png(mask), right_mask=mask)
    image, mask = meals.meal()
    meals.add("exif_1", jpeg(image, exif=exif(1)), png(mask), right_mask=mask)
    image, mask = meals.meal()
    palette = Image.fromarray(mask)
    palette.putpalette(np.random.default_rng(0).integers(0, 255, 768, np.uint8).tobytes())
    meals.add("palette_mask", jpeg(image, progressive=True), encoded(palette, "PNG"), right_mask=mask)
    image, mask = meals.meal()
    meals.add("mask_of_16_bits", jpeg(image), png(mask.astype(np.uint16)), right_mask=mask)
    image, mask = meals.meal()
    mask[:30] = SYNTHETIC_CLASSES.ignore_id
    meals.add("a_third_is_ignored", jpeg(image), png(mask), right_mask=mask)
    for form in ("PNG", "WEBP", "BMP", "TIFF"):
        image, mask = meals.meal()
        name, extension = f"a_{form.lower()}", f".{form.lower()[:4]}"
        meals.add(name, encoded(Image.fromarray(image), form), png(mask), extension=extension, right_mask=mask)


def _bad_images(meals: FaultyMeals) -> None:
    (image, mask), end = meals.meal(), b"\xff\xd9"
    whole, label = jpeg(image), png(mask)
    meals.add("no_image", None, label, "missing_file")
    meals.add("empty_image", b"", label, "empty_file")
    meals.add("web_page", b"<html><body>404 not found</body></html>", label, "other_format")
    meals.add("gif", encoded(Image.fromarray(image), "GIF"), label, "other_format", split="test")
    meals.add("half_jpeg", whole[: len(whole) // 2], label, "truncated")
    meals.add("half_jpeg_with_an_end", whole[: len(whole) // 2] + end, label, "truncated")
    meals.add("half_png_image", png(image)[:-2000], label, "truncated", extension=".png")
    meals.add("half_webp", encoded(Image.fromarray(image), "WEBP")[:-500], label, "truncated", extension=".webp")
    meals.add("png_with_a_flipped_bit", flipped(png(image)), label, "unreadable", extension=".png")
    meals.add("jpeg_without_its_tables", whole.replace(b"\xff\xdb", b"\xff\xe7"), label, "unreadable")
    meals.add("image_bomb", png_of(50_000, 50_000), label, "too_many_pixels", extension=".png")


def _bad_masks(meals: FaultyMeals) -> None:
    def add(name: str, label: bytes, *findings: str) -> None:
        meals.add(name, jpeg(meals.meal()[0]), label, *findings)

    image, mask = meals.meal()
    alien = mask.copy()
    alien[5, 5] = 200
    add("text_as_mask", b"0 0 1 1\n", "other_format")
    add("half_mask", png(np.random.default_rng(1).integers(0, 3, mask.shape, np.uint8))[:-1000], "truncated")
    add("mask_with_a_flipped_bit", flipped(png(mask)), "unreadable")
    add("mask_bomb", png_of(30_000, 30_000), "too_many_pixels")
    add("colour_mask", png(image), "mask_mode")
    add("webp_mask_with_loss", encoded(Image.fromarray(mask), "WEBP"), "mask_mode")
    add("jpeg_mask", jpeg(mask), "mask_mode")
    add("id_200", png(alien), "unknown_id")
    add("mask_of_half_the_size", png(mask[::2, ::2]), "size_mismatch")
    add("all_ignored", png(np.full_like(mask, SYNTHETIC_CLASSES.ignore_id)), "all_ignored")
    image, mask = meals.meal()
    meals.add("all_background", jpeg(image), png(np.zeros_like(mask)), "empty_mask", right_mask=np.zeros_like(mask))
    image, mask = meals.meal()
    void = np.where(mask > 0, np.uint8(SYNTHETIC_CLASSES.ignore_id), mask)
    meals.add("food_is_255", jpeg(image), png(void), "only_ignored", right_mask=void)
    meals.add("no_mask", jpeg(meals.meal()[0]), None, "unlabelled")


def _repeated(meals: FaultyMeals) -> None:
    image, mask = meals.meal()
    (meals.folder / "images" / "two_files.png").write_bytes(png(image))
    meals.add("two_files", jpeg(image), png(mask), "ambiguous_name")
    for kept, refused in (("val", "train"), ("test", "train")):
        image, mask = meals.meal()
        name = f"id_in_{kept}_and_{refused}"
        meals.add(name, jpeg(image), png(mask), split=kept, right_mask=mask)
        meals.listed(name, refused, "duplicate_id")
    for kept, refused in (("test", "train"), ("test", "val"), ("val", "train")):
        image, mask = meals.meal()
        name = f"file_in_{kept}_and_{refused}"
        meals.add(name, jpeg(image), png(mask), split=kept, right_mask=mask)
        meals.add(f"{name}_too", jpeg(image), png(mask), "split_duplicate", split=refused)
    image, mask = meals.meal()
    for name, findings in (("file_once", ()), ("file_again", ("repeated_image",))):
        meals.add(name, jpeg(image), png(mask), *findings, right_mask=mask)
    image, mask = meals.meal()
    meals.add("saved_well", jpeg(image), png(mask), right_mask=mask)
    darker = jpeg((image * 0.8).astype(np.uint8), quality=50)
    meals.add("saved_badly", darker, png(mask), "near_duplicate", split="test", right_mask=mask)


def _turned(meals: FaultyMeals) -> None:
    image, mask = meals.meal()
    meals.add("transposed_mask", jpeg(image), png(mask.T), "swapped_size", right_mask=mask)
    image, mask = meals.meal()
    meals.add("mask_turned_left", jpeg(image), png(np.rot90(mask)), "swapped_size", right_mask=mask)
    image, mask = meals.meal()
    meals.add("mask_turned_right", jpeg(image), png(np.rot90(mask, -1)), "swapped_size", right_mask=mask)
    image, mask = meals.meal()
    meals.add("exif_3", jpeg(stored(image, 3), exif=exif(3)), png(mask), "exif_orientation", right_mask=mask)
    image, mask = meals.meal()
    sideways = jpeg(stored(image, 6), exif=exif(6))
    findings = ("exif_orientation", "swapped_size")
    meals.add("exif_6_mask_as_stored", sideways, png(stored(mask, 6)), *findings, right_mask=mask)
    image, mask = meals.meal()
    upside_down = jpeg(stored(image, 3), exif=exif(3))
    findings = ("exif_orientation", "stored_mask")
    meals.add("turned__exif_3_mask_as_stored", upside_down, png(stored(mask, 3)), *findings, right_mask=mask)
    flat, mask = np.full((HEIGHT, WIDTH, 3), 90, np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 20:90] = 1
    findings = ("exif_orientation", "unclear_turn")
    meals.add("flat__exif_3", jpeg(flat, exif=exif(3)), png(mask), *findings, right_mask=mask)


def _converted(meals: FaultyMeals) -> None:
    def add(name: str, sample_image: bytes, finding: str, mask: np.ndarray, extension: str = ".png") -> None:
        meals.add(name, sample_image, png(mask), finding, extension=extension, right_mask=mask)

    image, mask = meals.meal()
    add("alpha", png(np.dstack([image, np.full(mask.shape, 128, np.uint8)])), "alpha", mask)
    image, mask = meals.meal()
    add("cmyk", encoded(Image.fromarray(image).convert("CMYK"), "JPEG"), "cmyk", mask, ".jpg")
    image, mask = meals.meal()
    add("sixteen_bits", png_of(WIDTH, HEIGHT, 16, 2, rows_of(image.astype(np.uint16) * 257)), "sixteen_bit", mask)
    image, mask = meals.meal()
    add("grey", encoded(Image.fromarray(image).convert("L"), "JPEG"), "grey", mask, ".jpg")
    image, mask = meals.meal()
    pages = encoded(Image.fromarray(image), "TIFF", save_all=True, append_images=[Image.fromarray(image[::-1])])
    add("pages", pages, "frames", mask, ".tif")
    image, mask = meals.meal()
    add("palette", encoded(Image.fromarray(image).quantize(64), "PNG"), "palette", mask)


def _combined(meals: FaultyMeals) -> None:
    image, mask = meals.meal()
    sample_image = encoded(Image.fromarray(image).convert("CMYK"), "JPEG")
    meals.add("cmyk_and_transposed_mask", sample_image, png(mask.T), "cmyk", "swapped_size", right_mask=mask)
    cut = sample_image[: len(sample_image) // 2] + b"\xff\xd9"
    meals.add("cmyk_cut", cut, png(mask), "cmyk", "truncated")
    image, mask = meals.meal()
    deep = np.dstack([image, np.full(mask.shape, 200, np.uint8)]).astype(np.uint16) * 257
    sample_image = png_of(WIDTH, HEIGHT, 16, 6, rows_of(deep))
    meals.add(
        "sixteen_bits_with_alpha", sample_image, png(mask), "sixteen_bit", "alpha", extension=".png", right_mask=mask
    )
    image, mask = meals.meal()
    whole = jpeg(image)
    meals.add("cut_and_listed_twice", whole[: len(whole) // 2], png(mask), "truncated", "duplicate_id")
    meals.listed("cut_and_listed_twice", "val", "truncated")
    alien = mask.copy()
    alien[0, 0] = 77
    meals.add("cut_with_unknown_id", whole[:-2], png(alien), "truncated", "unknown_id")
    image, mask = meals.meal()
    sample_image = encoded(Image.fromarray(stored(image, 6)).convert("L"), "JPEG", exif=exif(6))
    findings = ("exif_orientation", "grey", "swapped_size", "all_ignored")
    meals.add("sideways_grey_all_ignored", sample_image, png(np.full((WIDTH, HEIGHT), 255, np.uint8)), *findings)
    image, mask = meals.meal()
    small = Image.fromarray(image).quantize(16)
    sample_image = encoded(small, "PNG", transparency=0)
    meals.add("palette_with_alpha_no_mask", sample_image, None, "palette", "alpha", "unlabelled", extension=".png")
    image, mask = meals.meal()
    deep = image[:, :, 1].astype(np.uint16) * 257
    findings = ("sixteen_bit", "grey", "size_mismatch", "unknown_id")
    alien = np.full((HEIGHT - 1, WIDTH), 99, np.uint8)
    meals.add("deep_grey_and_a_foreign_mask", png(deep), png(alien), *findings, extension=".png")
    meals.add("no_image_and_colour_mask", None, png(image), "missing_file", "mask_mode")


# --- files ---


def encoded(sample_image: Image.Image, form: str, **options: object) -> bytes:
    """A file as Pillow writes it."""
    sink = io.BytesIO()
    sample_image.save(sink, form, **options)
    return sink.getvalue()


def jpeg(image: np.ndarray, **options: object) -> bytes:
    """(H, W) or (H, W, 3) uint8 as JPEG."""
    return encoded(Image.fromarray(image), "JPEG", **{"quality": 92, **options})


def png(array: np.ndarray) -> bytes:
    """(H, W) uint8 or uint16, (H, W, 3 or 4) uint8 as PNG."""
    return encoded(Image.fromarray(np.ascontiguousarray(array)), "PNG")


def exif(orientation: int) -> Image.Exif:
    """EXIF with an orientation and nothing else."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def stored(array: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as stored by a camera that writes this EXIF orientation."""
    return np.asarray(Image.fromarray(array).transpose(_STORE[orientation]))


def flipped(data: bytes) -> bytes:
    """The file with its middle byte inverted."""
    changed = bytearray(data)
    changed[len(data) // 2] ^= 255
    return bytes(changed)


def rows_of(array: np.ndarray) -> bytes:
    """(H, W, C) uint16 as the rows of a PNG, each behind its filter byte."""
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)


def png_of(width: int, height: int, depth: int = 8, colour: int = 0, rows: bytes = b"\0") -> bytes:
    """A PNG by hand (colour type 0 grey, 2 RGB, 6 RGBA); its rows may be far too few."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
