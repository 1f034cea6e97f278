"""The page: complete, self-contained, with every name escaped; and the numbers that it takes from elsewhere."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from foodseg import storage
from foodseg.eval.report_html import confusion_pairs, page_html, read_losses
from tests.support.report_page import NAMES, awkward_page


class Tags(HTMLParser):
    """Collects tags, attributes and text; refuses tags that are closed in another order than opened."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "!doctype"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return page_html(awkward_page(tmp_path_factory.mktemp("page") / "data"))


@pytest.fixture(scope="module")
def parsed(page) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    return tags


def test_it_loads_nothing(page, parsed):
    for _, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("data:image/jpeg;base64,", "#"))  # "#": in the page itself
    assert "url(" not in page and "@import" not in page and "http" not in page.replace("http-equiv", "")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    assert "default-src 'none'" in page
    assert len(page) < 6 * 2**20


def test_names_are_escaped(page, parsed):
    text = "".join(parsed.text)
    for name in (*NAMES[:4], "<b>meals</b> val", "mIoU <u>soy</u>", "<i>odd</i>", "no <em>note</em>"):
        assert name in text or name.capitalize() in text
    for written in ("&lt;b&gt;rice&lt;/b&gt; &amp; &#34;peas&#34; &#39;n&#39; more", "&lt;b&gt;meals&lt;/b&gt; val"):
        assert written in page
    for markup in ("<b>rice", "<b>meals", "<script>alert", "<u>soy", "<i>odd", "<em>note"):
        assert markup not in page
    assert not {"script", "u"} & {tag for tag, _ in parsed.tags}


def test_everything_is_there(page, parsed):
    text = " ".join(" ".join(parsed.text).split())
    for words in (
        "boundary mIoU", "ingredient F1", "share error", "calibration error", "Worst", "Best", "Legend", "Classes",
        "Most frequent confusions", "Ingredients and their shares", "Confidence", "Training",
        "EXIF orientation says counted 3", "in the quarantine, each with its reason refused 2", "never occur in train",
    ):  # fmt: skip
        assert words in text, words
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 2 * 12 and all(image["alt"] and image["width"] for image in images)
    charts = [attributes for tag, attributes in parsed.tags if tag == "svg"]
    assert [chart["aria-label"] for chart in charts] == [
        "Share right over confidence", "Risk over coverage", "Training loss over steps", "mIoU on val over steps",
    ]  # fmt: skip
    widths = re.findall(r'<i style="width: ([\d.]+)%"', page)
    assert widths and all(0 <= float(width) <= 100 for width in widths)


def test_label_maps_of_others_have_no_curves(tmp_path):
    text = page_html(awkward_page(tmp_path / "data", confidence=False))
    assert "No training curves" in text and "<svg" not in text and "calibration error" not in text
    assert "No &lt;em&gt;note" in text


def test_confusions_by_hand():
    names = ["background", "rice", "tofu", "crumb"]
    matrix = np.array([[800, 0, 8, 0], [30, 70, 100, 0], [0, 0, 999, 1], [0, 1, 0, 0]])  # 2,009 pixels: crumb is stray
    found = [(c.truth, c.prediction, c.share, c.pixels) for c in confusion_pairs(matrix, names)]
    assert found == [
        ("rice", "tofu", 0.5, 100),
        ("rice", "background", 0.15, 30),
        ("background", "tofu", 8 / 808, 8),
        ("tofu", "crumb", 0.001, 1),
    ]
    assert confusion_pairs(np.diag([5, 6]), names[:2]) == []
    many = np.random.default_rng(0).integers(1, 9, (9, 9))
    pairs = confusion_pairs(many, [str(i) for i in range(9)])
    assert len(pairs) == 15 and [p.share for p in pairs] == sorted((p.share for p in pairs), reverse=True)


def test_losses_of_a_run(tmp_path):
    run = str(tmp_path / "run")
    lines = [{"step": step, "loss/a_b": 100.0 - step, "lr": 0.1} for step in range(1, 401)]
    lines += [{"step": 4, "loss/a_b": 50.0}, {"step": 4, "val/miou": 0.2}]  # resumed from step 3
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "lo'
    storage.write_text(storage.join(run, "log.jsonl"), text)
    found = read_losses(storage.join(run, "checkpoints", "step-00000400"), 400)
    assert list(found) == ["a_b"] and len(found["a_b"]) == 200
    assert found["a_b"][:2] == [(2, 98.5), (4, (97 + 50) / 2)]
    assert read_losses(storage.join(run, "checkpoints", "step-00000003"), 3)["a_b"] == [(1, 99.0), (2, 98.0), (3, 97.0)]
    assert read_losses(str(tmp_path / "alone"), 3) == {}
    assert read_losses(str(tmp_path / "other" / "checkpoints" / "step-00000003"), 3) == {}
