"""The report line by line."""

import numpy as np
from rich.console import Console

from foodseg.eval.report import scores_markdown, scores_table
from foodseg.metrics import Scores, scores

NAMES = ["background", "rice", "tofu|fried", "fig", "date"]


def result(**settings) -> Scores:
    matrix = np.zeros((5, 5), dtype=np.int64)
    matrix[0, 0], matrix[0, 3] = 8, 2  # fig is predicted but absent
    matrix[1, 1], matrix[1, 0] = 15, 5
    matrix[2, 2] = 10
    return scores(matrix, NAMES, **settings)


def test_markdown_by_hand():
    page = scores_markdown(
        result(subsets={"soy": [2], "dry": [3, 4]}, trained_ids=[0, 1, 2]),
        "Segmenter on test",
        {"data": "foodmix@3", "ids": "5"},
    )
    assert page.splitlines() == [
        "# Segmenter on test",
        "",
        "- data: foodmix@3",
        "- ids: 5",
        "",
        "| score | % | ids |",
        "|---|---:|---:|",
        "| mIoU | 76.1 | 3 |",  # (8 / 15 + 15 / 20 + 1) / 3
        "| mIoU foreground | 87.5 | 2 |",
        "| mIoU union | 57.1 | 4 |",
        "| mAcc | 85.0 | 3 |",  # (8 / 10 + 15 / 20 + 1) / 3
        "| aAcc | 82.5 | - |",  # 33 / 40
        "| mIoU soy | 76.7 | 2 |",
        "| mIoU dry | 53.3 | 1 |",
        "",
        "Ids with truth pixels that never occur in train, counted with IoU 0: 0.",
        "",
        "| id | class | IoU % | Acc % | pixels % |",
        "|---:|---|---:|---:|---:|",
        "| 1 | rice | 75.0 | 75.0 | 50.0 |",
        "| 0 | background | 53.3 | 80.0 | 25.0 |",
        "| 2 | tofu\\|fried | 100.0 | 100.0 | 25.0 |",
        "| 3 | fig | - | - | 0.0 |",
        "| 4 | date | - | - | 0.0 |",
    ]
    assert page.endswith("|\n")


def test_untrained_ids_are_told():
    assert "counted with IoU 0: 1." in scores_markdown(result(trained_ids=[0, 1]), "t", {})
    assert "never occur in train" not in scores_markdown(result(), "t", {})


def test_scores_that_do_not_exist_are_a_dash():
    only_background = scores(np.diag([4, 0]), NAMES[:2])
    assert "| mIoU foreground | - | 0 |" in scores_markdown(only_background, "t", {})


def test_terminal_table_is_the_summary_only():
    table = scores_table(result(subsets={"[soy]": [2]}, trained_ids=[0, 1]))
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(table)
    printed = " ".join(captured.get().split())
    for words in ("mIoU", "42.8", "mIoU [soy]", "26.7", "aAcc", "82.5", "counted with IoU 0: 1."):
        assert words in printed
    assert "rice" not in printed
