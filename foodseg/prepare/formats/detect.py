"""Detects the format of a source data set, and lists it.

listing = list_source("downloads/FoodSeg103")                           # detects the format
listing = list_source("hf://datasets/EduardoPacheco/FoodSeg103")        # the hub is always Hugging Face
listing = list_source("s3://bucket/meals", "coco")
"""

import logging
from dataclasses import replace
from typing import Literal, get_args

from foodseg import storage
from foodseg.data.sources import parse_sources
from foodseg.errors import UserError
from foodseg.prepare.formats import coco, folder, foodseg103, huggingface, uecfoodpix
from foodseg.prepare.formats.layout import visible_names
from foodseg.prepare.record import SourceListing
from foodseg.storage import hub

Format = Literal["auto", "foodseg103", "uecfoodpix", "coco", "folder", "huggingface"]
Known = Literal["foodseg103", "uecfoodpix", "coco", "folder", "huggingface"]
SOURCES = "sources.tsv"

_log = logging.getLogger(__name__)


def list_source(src: str, format: Format = "auto") -> SourceListing:
    """Lists a source data set; opens no image. The ids that its sources annotate are read from its `sources.tsv`.

    Raises:
        UserError: `src` is in no known format, in several, or not in `format`; it lists no images; what the formats
            raise.
        RetryLater: the storage or the hub does not answer.
    """
    src = absolute_source(src)
    if storage.is_hub(src):
        if format not in ("auto", "huggingface"):
            raise UserError(f"{src}: a data set on the hub is read in the format huggingface, not {format}")
        return _with_sources(hub.pin(src), "huggingface")
    return _with_sources(src, find_format(src) if format == "auto" else format)


def parse_format(text: str) -> Format:
    """Returns the format of that name; UserError lists the formats."""
    for format in get_args(Format):
        if text == format:
            return format
    raise UserError(f"--format {text}: there is no such format; there are {', '.join(get_args(Format))}")


def absolute_source(src: str) -> str:
    """Returns an hf:// URI as it is, any other as `storage.absolute`."""
    return src if storage.is_hub(src) else storage.absolute(src)


def source_name(src: str) -> str:
    """Returns the default name of the data set at `src`: the last part of its path, without query and revision."""
    name = storage.without_query(absolute_source(src)).rstrip("/").rsplit("/", 1)[-1]
    return name.partition("@")[0] if storage.is_hub(src) else name


def find_format(src: str) -> Known:
    """Returns the one format that the names of the files in `src` fit, and logs it.

    Raises:
        UserError: none fits (naming what each needs and what is missing), or several do.
    """
    missing: dict[Known, list[str]] = {
        "folder": folder.missing_in_folder(src),
        "foodseg103": foodseg103.missing_in_foodseg103(src),
        "uecfoodpix": uecfoodpix.missing_in_uecfoodpix(src),
        "huggingface": huggingface.missing_in_huggingface(src),
    }
    # a .json next to the files of another format may have another purpose
    missing["coco"] = coco.missing_in_coco(src, own_location=not all(missing.values()))
    fitting = [format for format, absent in missing.items() if not absent]
    if not fitting and huggingface.has_conversion(src):
        fitting.append("huggingface")
    where = storage.redact(src)
    if len(fitting) > 1:
        raise UserError(f"{where} could be in the formats {' and '.join(fitting)}: say which with --format")
    if not fitting:
        raise UserError(_no_format(where, missing, bool(visible_names(src))))
    _log.info("%s is in the %s format", where, fitting[0])
    return fitting[0]


def _no_format(where: str, missing: dict[Known, list[str]], anything: bool) -> str:
    """Returns the message: what is missing for formats that match in part, or what every format needs."""
    layouts: tuple[tuple[Known, int, str], ...] = (
        ("folder", len(folder.FILES), folder.NEEDS),
        ("foodseg103", len(foodseg103.FILES), foodseg103.NEEDS),
        ("uecfoodpix", len(uecfoodpix.FILES), uecfoodpix.NEEDS),
    )
    partly = [
        f"missing for the {format} format: {', '.join(missing[format])} (expected {needs})"
        for format, files, needs in layouts
        if len(missing[format]) < files
    ]
    if partly:
        return f"{where} is in no known format; {'; '.join(partly)}"
    if not anything:
        return (
            f"{where} does not exist or is empty; expected the folder of a data set (folder format: {folder.NEEDS}; or "
            "foodseg103, uecfoodpix, coco, huggingface)"
        )
    return (
        f"{where} is in no known format; expected the files of one of these: folder format: {folder.NEEDS}; "
        f"foodseg103: {foodseg103.NEEDS}; uecfoodpix: {uecfoodpix.NEEDS}; "
        f"coco: {coco.NEEDS}; huggingface: {huggingface.NEEDS}"
    )


def _with_sources(src: str, format: Known) -> SourceListing:
    listing = _list(src, format)
    if not listing.records:
        raise UserError(f"{storage.redact(src)} (format {format}) lists no images")
    files = hub if storage.is_hub(src) else storage
    if SOURCES not in files.list_names(src):
        return listing
    where = files.join(src, SOURCES)
    sources = {record.source for record in listing.records}
    annotated = parse_sources(files.read_text(where), storage.redact(where), listing.classes, sources)
    return replace(listing, annotated=annotated)


def _list(src: str, format: Known) -> SourceListing:
    if format == "folder":
        return folder.list_folder(src)
    elif format == "foodseg103":
        return foodseg103.list_foodseg103(src)
    elif format == "uecfoodpix":
        return uecfoodpix.list_uecfoodpix(src)
    elif format == "coco":
        return coco.list_coco(src)
    return huggingface.list_huggingface(src)
