"""The report line by line."""

import numpy as np
import pytest
from rich.console import Console

from foodseg.errors import UserError
from foodseg.eval.report_markdown import condition_mark, headlines, scores_markdown, scores_table
from foodseg.eval.scores import Evaluation, summarise_evaluation
from foodseg.eval.scoring import Scored
from foodseg.metrics.per_image import Conditions, ImageCounts

NAMES = ["background", "rice", "tofu|fried", "fig", "date"]


def result(confidence: bool = False, subsets=None, trained_ids=None) -> Evaluation:
    matrix = np.zeros((5, 5), dtype=np.int64)
    matrix[0, 0], matrix[0, 3] = 8, 2  # fig is predicted but absent
    matrix[1, 1], matrix[1, 0] = 15, 5
    matrix[2, 2] = 10
    boundary = np.array([[0, 2, 4, 4], [1, 3, 3, 3], [2, 1, 2, 2], [3, 0, 0, 2]])
    counts = np.zeros((1500, 3), np.int64)
    counts[750] = (40, 33, 40 * 32768)
    return summarise_evaluation(
        Scored([ImageCounts.from_matrix("p", "p", matrix, boundary)], counts if confidence else None),
        NAMES,
        subsets=subsets or {},
        trained_ids=trained_ids,
        calibration_note="none here",
    )


def test_markdown_by_hand():
    page = scores_markdown(
        result(True, subsets={"soy": [2], "dry": [3, 4]}, trained_ids=[0, 1, 2]),
        "Segmenter on test",
        {"data": "foodmix@3", "ids": "5"},
    )
    assert page.splitlines() == [
        "# Segmenter on test",
        "",
        "- data: foodmix@3",
        "- ids: 5",
        "",
        "| score | % | over |",
        "|---|---:|---:|",
        "| mIoU | 76.1 | 3 ids |",  # (8 / 15 + 15 / 20 + 1) / 3
        "| mIoU foreground | 87.5 | 2 ids |",
        "| mIoU union | 57.1 | 4 ids |",
        "| boundary mIoU | 55.6 | 3 ids |",  # (2 / 6 + 1 + 1 / 3) / 3
        "| mAcc | 85.0 | 3 ids |",  # (8 / 10 + 15 / 20 + 1) / 3
        "| aAcc | 82.5 | - |",  # 33 / 40
        "| mIoU soy | 76.7 | 2 ids |",
        "| mIoU dry | 53.3 | 1 id |",
        "| ingredient F1 | 80.0 | 1 image |",  # rice and tofu are right, fig is not there
        # truth: rice 2/3, tofu 1/3; predicted: rice 15, fig 2, tofu 10 of 27
        "| share error | 7.4 | 3 pairs |",
        "| calibration error | 32.5 | 40 pixels |",
        "| AURC | 17.5 | 40 pixels |",
        "| risk at 80 % coverage | 17.5 | 40 pixels |",
        "",
        "Ids with truth pixels that never occur in train, counted with IoU 0: 0.",
        "",
        "Confidences: none here.",
        "",
        "| id | class | IoU % | boundary IoU % | Acc % | pixels % |",
        "|---:|---|---:|---:|---:|---:|",
        "| 1 | rice | 75.0 | 100.0 | 75.0 | 50.0 |",
        "| 0 | background | 53.3 | 33.3 | 80.0 | 25.0 |",
        "| 2 | tofu\\|fried | 100.0 | 33.3 | 100.0 | 25.0 |",
        "| 3 | fig | - | - | - | 0.0 |",
        "| 4 | date | - | - | - | 0.0 |",
        "",
        "## Ingredients",
        "",
        "An ingredient is on an image when it holds at least 0.1 % of its labelled pixels. Share error: mean of "
        "|predicted - true| share of the food, in percentage points.",
        "",
        "| id | ingredient | images | precision % | recall % | F1 % | share error |",
        "|---:|---|---:|---:|---:|---:|---:|",
        "| - | mean over images | 1 | 66.7 | 100.0 | 80.0 | 7.4 |",
        "| - | all pairs | 1 | 66.7 | 100.0 | 80.0 | 7.4 |",
        "| 1 | rice | 1 | 100.0 | 100.0 | 100.0 | 11.1 |",
        "| 2 | tofu\\|fried | 1 | 100.0 | 100.0 | 100.0 | 3.7 |",
        "| 3 | fig | 0 | 0.0 | - | 0.0 | 7.4 |",
    ]
    assert page.endswith("|\n")


def test_untrained_ids_are_reported():
    assert "counted with IoU 0: 1." in scores_markdown(result(trained_ids=[0, 1]), "t", {})
    assert "never occur in train" not in scores_markdown(result(), "t", {})


@pytest.mark.parametrize(
    ("conditions", "mark"),
    [
        (None, None),
        (Conditions("ema", "vocabulary", "none"), None),
        (Conditions("ema", "predicted", "none"), "predicted"),
        (Conditions("ema", "predicted", "soft"), "predicted, restrict soft"),
        (Conditions("ema", "provided", "none"), "provided, oracle"),
        (Conditions("ema", "provided", "hard"), "provided, oracle, restrict hard"),
    ],
)
def test_no_number_without_its_condition(conditions, mark):
    assert condition_mark(conditions) == mark
    plain, marked = headlines(result(True)), headlines(result(True), mark)
    assert [row.name for row in marked] == [row.name + (f" ({mark})" if mark else "") for row in plain]
    assert [row.value for row in marked] == [row.value for row in plain]
    assert f"| mIoU{f' ({mark})' if mark else ''} | 76.1 |" in scores_markdown(result(), "t", {}, mark)


def test_scores_that_do_not_exist_are_a_dash():
    counts = ImageCounts.from_matrix("p", "p", np.diag([4, 0]), np.array([[0, 2, 2, 2]]))
    only_background = summarise_evaluation(
        Scored([counts], None), NAMES[:2], subsets={}, trained_ids=None, calibration_note="none here"
    )
    page = scores_markdown(only_background, "t", {})
    assert "| mIoU foreground | - | 0 ids |" in page and "| ingredient F1 | - | 0 images |" in page
    assert "AURC" not in page


def test_terminal_table_is_the_summary_only():
    table = scores_table(result(True, subsets={"[soy]": [2]}, trained_ids=[0, 1]))
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(table)
    printed = " ".join(captured.get().split())
    for words in ("mIoU", "42.8", "mIoU [soy]", "26.7", "aAcc", "82.5", "share error", "AURC"):
        assert words in printed
    assert "rice" not in printed
    assert len(captured.get().splitlines()) < 25


def test_no_image_is_refused():
    with pytest.raises(UserError, match="there is no labelled image"):
        summarise_evaluation(Scored([], None), NAMES, subsets={}, trained_ids=None, calibration_note="")
