# SPDX-License-Identifier: Apache-2.0
"""The pictures hold what was measured."""

import numpy as np
import pytest
from PIL import Image
from support.detections import dataset, item, random_case

from yolo_hw.evaluate import confusion_matrix, make_curves, match_detections
from yolo_hw.evaluate.plots import (
    NAMED_CLASSES,
    confidence_figure,
    confusion_figure,
    plot_evaluation,
    precision_recall_figure,
)

NAMES = ("class0", "class1", "class2")


@pytest.fixture(scope="module")
def case():
    truth, detections = random_case(3, images=12)
    return truth, detections, make_curves(match_detections(truth, detections, range(3)))


def test_every_picture_is_written(case, tmp_path):
    truth, detections, _ = case
    paths = plot_evaluation(tmp_path / "new" / "plots", truth, detections, range(3))
    assert sorted(path.name for path in paths) == [
        "F1_curve.png", "PR_curve.png", "P_curve.png", "R_curve.png", "confusion_matrix.png",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "new" / "plots").iterdir()) == sorted(path.name for path in paths)
    for path in paths:
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


@pytest.mark.parametrize("quantity", ["precision", "recall", "f1"])
def test_lines_are_the_classes_and_their_mean(case, quantity):
    curves = case[2]
    axes = confidence_figure(curves, NAMES, quantity).axes[0]
    values = getattr(curves, quantity)
    best, *lines, mean = axes.lines
    assert best.get_xdata()[0] == curves.best_confidence
    assert [line.get_label() for line in lines] == list(NAMES)
    for line, row in zip(lines, values, strict=True):
        assert np.array_equal(line.get_ydata(), row)
    assert np.array_equal(mean.get_ydata(), values.mean(0))


def test_precision_recall_legend_states_the_areas(case):
    curves = case[2]
    axes = precision_recall_figure(curves, NAMES).axes[0]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    expected = [f"{name} {area:.3f}" for name, area in zip(NAMES, curves.areas, strict=True)]
    assert texts == [*expected, f"all classes {curves.areas.mean():.3f}"]


def test_many_classes_are_not_named():
    count = NAMED_CLASSES + 1
    truth = dataset(*(item([[0, 0, 9, 9]], [k]) for k in range(count)), names=[f"class{k}" for k in range(count)])
    curves = make_curves(match_detections(truth, [None] * count, range(count)))
    axes = precision_recall_figure(curves, truth.names).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["all classes 0.000"]


def test_confusion_matrix_shows_the_counts(case):
    truth, detections, _ = case
    matrix = confusion_matrix(truth, detections, range(3))
    axes = confusion_figure(matrix, NAMES).axes[0]
    shown = {(int(t.get_position()[1]), int(t.get_position()[0])): int(t.get_text()) for t in axes.texts}
    assert shown == {(r, c): int(matrix[r, c]) for r, c in np.argwhere(matrix)}
    assert [label.get_text() for label in axes.get_yticklabels()] == [*NAMES, "background"]


def test_a_data_set_without_objects_gives_pictures_that_say_so(tmp_path):
    plot_evaluation(tmp_path, dataset(item([])), [None], [0])
    curves = make_curves(match_detections(dataset(item([])), [None], [0]))
    assert [text.get_text() for text in precision_recall_figure(curves, ["thing"]).axes[0].texts] == ["no objects"]
