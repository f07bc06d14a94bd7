# SPDX-License-Identifier: Apache-2.0
"""Assignment of objects to anchors and cells, on grids small enough to work out by hand."""

from __future__ import annotations

import pytest
import torch

from yolo_hw.darknet.layers import HeadSpec
from yolo_hw.train.targets import AssignConfig, assign_in_cell, assign_targets, centre_cells, shape_iou

IMAGE = (64, 64)
ONLY_BEST = AssignConfig(anchor_iou=1.0)


def head(*anchors, scale_x_y=1.0):
    return HeadSpec(kind="yolo", classes=2, anchors=anchors, scale_x_y=scale_x_y)


def assign(rows, heads, grids, config=ONLY_BEST):
    """Return the assignments as sets of (image, anchor, row, column, target)."""
    targets = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return [as_set(found) for found in assign_targets(targets, grids, heads, IMAGE, [config] * len(heads))]


def as_set(found):
    names = ("image", "anchor", "row", "column", "target")
    return set(zip(*(getattr(found, name).tolist() for name in names), strict=True))


def test_shape_overlap_of_known_boxes():
    overlap = shape_iou(torch.tensor([[4.0, 4.0], [2.0, 8.0]]), torch.tensor([[4.0, 4.0], [8.0, 8.0]]))
    torch.testing.assert_close(overlap, torch.tensor([[1.0, 0.25], [8 / 24, 0.25]]))


def test_object_goes_to_the_cell_of_its_centre_and_the_anchor_of_its_shape():
    # a 16 x 32 object in image 1 at (0.7, 0.3) of a 4 x 4 grid: column 2, row 1
    rows = [[1, 0, 0.7, 0.3, 16 / 64, 32 / 64]]
    assert assign(rows, [head((16, 16), (16, 32), (32, 32))], [(4, 4)]) == [{(1, 1, 1, 2, 0)}]


def test_best_anchor_is_sought_over_all_heads():
    rows = [[0, 0, 0.1, 0.1, 8 / 64, 8 / 64], [0, 1, 0.9, 0.9, 40 / 64, 40 / 64]]
    coarse, fine = head((32, 32), (48, 48)), head((8, 8), (16, 16))
    found = assign(rows, [coarse, fine], [(2, 2), (4, 4)])
    # the 40-pixel object fits 48 better (0.694) than 32 (0.64)
    assert found == [{(0, 1, 1, 1, 1)}, {(0, 0, 0, 0, 0)}]


def test_anchor_that_two_heads_list_answers_in_both():
    """The masks of YOLOv3-tiny are 3,4,5 and 1,2,3."""
    rows = [[0, 0, 0.1, 0.1, 16 / 64, 16 / 64]]
    found = assign(rows, [head((16, 16), (48, 48)), head((8, 8), (16, 16))], [(2, 2), (4, 4)])
    assert found == [{(0, 0, 0, 0, 0)}, {(0, 1, 0, 0, 0)}]


def test_every_head_has_its_own_threshold():
    targets = torch.tensor([[0, 0, 0.1, 0.1, 16 / 64, 16 / 64]])
    heads = [head((16, 16), (24, 24)), head((20, 20), (64, 64))]  # overlaps 1 and 0.444, 0.64 and 0.0625
    configs = [AssignConfig(anchor_iou=0.4), AssignConfig(anchor_iou=0.7)]
    found = assign_targets(targets, [(4, 4), (4, 4)], heads, IMAGE, configs)
    assert [as_set(a) for a in found] == [{(0, 0, 0, 0, 0), (0, 1, 0, 0, 0)}, set()]


def test_anchors_are_in_pixels_of_the_image():
    targets = torch.tensor([[0, 0, 0.1, 0.1, 0.25, 0.25]])
    for side, anchor in ((64, 0), (128, 1)):  # 16 and 32 pixels
        (found,) = assign_targets(targets, [(4, 4)], [head((16, 16), (32, 32))], (side, side), [ONLY_BEST])
        assert found.anchor.tolist() == [anchor]


def test_cells_of_centres():
    targets = torch.tensor([[0, 0, 0.0, 0.3, 0.1, 0.1], [0, 0, 1.0, 1.0, 0.1, 0.1], [0, 0, 0.26, 0.49, 0.1, 0.1]])
    assert centre_cells(targets, (2, 4)).tolist() == [[0, 0], [3, 1], [1, 0]]


def test_best_shape_in_the_cell_answers_and_the_best_fitting_object_keeps_it():
    targets = torch.tensor(
        [
            [0, 0, 0.30, 0.30, 0.2, 0.2],  # fits shape 0 with 0.64, and loses it to the next
            [0, 1, 0.40, 0.40, 0.25, 0.25],  # fits shape 0 exactly
            [0, 2, 0.45, 0.45, 0.5, 0.5],  # fits shape 1 exactly
            [1, 0, 0.30, 0.30, 0.2, 0.2],  # alone in its image
        ]
    )
    shapes = torch.tensor([[0.25, 0.25], [0.5, 0.5]]).expand(4, 2, 2)
    assert as_set(assign_in_cell(targets, shapes, (4, 4))) == {(0, 0, 1, 1, 1), (0, 1, 1, 1, 2), (1, 0, 1, 1, 3)}


def test_every_anchor_above_the_threshold_answers():
    rows = [[0, 0, 0.1, 0.1, 16 / 64, 16 / 64]]
    anchors = head((16, 16), (24, 24), (64, 64))  # overlaps 1, 0.444, 0.0625
    assert assign(rows, [anchors], [(4, 4)], AssignConfig(anchor_iou=0.4)) == [{(0, 0, 0, 0, 0), (0, 1, 0, 0, 0)}]
    assert assign(rows, [anchors], [(4, 4)], AssignConfig(anchor_iou=0.5)) == [{(0, 0, 0, 0, 0)}]


def test_wider_centre_range_lets_neighbours_answer():
    # scale_x_y 2 reaches half a cell beyond the own one, less the margin: centres within 0.85 cells of a cell's middle
    config = AssignConfig(anchor_iou=1.0, reach_margin=0.15)
    wide = head((16, 16), scale_x_y=2.0)
    # x = 2.1 cells: column 2 and, 0.6 from its middle, column 1; y = 1.5: row 1 alone
    assert assign([[0, 0, 2.1 / 4, 1.5 / 4, 0.25, 0.25]], [wide], [(4, 4)], config) == [
        {(0, 0, 1, 2, 0), (0, 0, 1, 1, 0)}
    ]
    # both coordinates near a corner: four cells
    assert len(assign([[0, 0, 2.1 / 4, 1.9 / 4, 0.25, 0.25]], [wide], [(4, 4)], config)[0]) == 4
    # a margin of half a cell leaves the own cell only
    assert len(assign([[0, 0, 2.1 / 4, 1.9 / 4, 0.25, 0.25]], [wide], [(4, 4)], AssignConfig(reach_margin=0.5))[0]) == 1


def test_neighbours_outside_the_grid_do_not_answer():
    wide = head((16, 16), scale_x_y=2.0)
    found = assign([[0, 0, 0.05 / 4, 3.95 / 4, 0.25, 0.25]], [wide], [(4, 4)])
    assert found == [{(0, 0, 3, 0, 0)}]


def test_centre_on_the_far_edge_belongs_to_the_last_cell():
    assert assign([[0, 0, 1.0, 1.0, 0.25, 0.25]], [head((16, 16))], [(4, 4)]) == [{(0, 0, 3, 3, 0)}]


def test_two_objects_never_share_a_prediction():
    # both centres in cell (1, 1), the second nearer to its middle
    rows = [[0, 0, 1.1 / 4, 1.1 / 4, 0.25, 0.25], [0, 1, 1.4 / 4, 1.5 / 4, 0.25, 0.25]]
    assert assign(rows, [head((16, 16))], [(4, 4)]) == [{(0, 0, 1, 1, 1)}]
    # in another image they do not meet
    rows[1][0] = 1
    assert assign(rows, [head((16, 16))], [(4, 4)]) == [{(0, 0, 1, 1, 0), (1, 0, 1, 1, 1)}]


def test_non_square_grids_keep_rows_and_columns_apart():
    assert assign([[0, 0, 0.9, 0.1, 0.25, 0.25]], [head((16, 16))], [(2, 8)]) == [{(0, 0, 0, 7, 0)}]


def test_no_objects_give_empty_assignments():
    assert assign([], [head((16, 16)), head((8, 8))], [(4, 4), (8, 8)]) == [set(), set()]


@pytest.mark.parametrize("seed", range(5))
def test_predictions_are_unique_and_every_lonely_object_is_answered(seed):
    generator = torch.Generator().manual_seed(seed)
    count = 40
    targets = torch.rand(count, 6, generator=generator)
    targets[:, 0] = torch.arange(count)  # one object per image
    heads = [head((10, 13), (30, 20), scale_x_y=1.5), head((40, 40), (60, 30), scale_x_y=1.5)]
    found = assign_targets(targets, [(8, 8), (4, 4)], heads, IMAGE, [AssignConfig()] * 2)
    answered: set[int] = set()
    for a in found:
        places = list(zip(a.image.tolist(), a.anchor.tolist(), a.row.tolist(), a.column.tolist(), strict=True))
        assert len(set(places)) == len(places)
        answered |= set(a.target.tolist())
    assert answered == set(range(count))
