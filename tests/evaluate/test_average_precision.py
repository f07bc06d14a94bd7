# SPDX-License-Identifier: Apache-2.0
"""AP against plain implementations written from the definitions, box by box, on random sets."""

import math

import pytest
from support.detections import NOWHERE, A, B, C, dataset, found, item, random_case

from yolo_hw.evaluate import MatchRule, area_under_envelope, darknet_metrics, eleven_points, match_detections

SEEDS = range(25)


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def listed(detections, label):
    """(score, image, box) of a class, best first."""
    rows = []
    for image, of_image in enumerate(detections):
        if of_image is not None:
            rows += [
                (score, image, box)
                for box, score, found_label in zip(
                    of_image.boxes.tolist(), of_image.scores.tolist(), of_image.classes.tolist(), strict=True
                )
                if found_label == label
            ]
    return sorted(rows, key=lambda row: -row[0])


def plain_voc_curve(truth, detections, label):
    """The devkit's VOCevaldet: recall and precision after every detection that is not left out."""
    seen, hits, wrong, curve = set(), 0, 0, []
    objects = sum(1 for it in truth.items for k, d in zip(it.labels, it.difficult, strict=True) if k == label and not d)
    for _, image, box in listed(detections, label):
        it = truth.items[image]
        best, chosen = -math.inf, None
        for k in range(len(it.labels)):
            if it.labels[k] == label and iou(box, it.boxes[k]) > best:
                best, chosen = iou(box, it.boxes[k]), k
        if chosen is not None and best >= 0.5:
            if it.difficult[chosen]:
                continue
            if (image, chosen) in seen:
                wrong += 1
            else:
                seen.add((image, chosen))
                hits += 1
        else:
            wrong += 1
        curve.append((hits / objects if objects else 0.0, hits / (hits + wrong)))
    return objects, curve


def plain_eleven_points(curve):
    total = 0.0
    for k in range(11):
        total += max([p for r, p in curve if r >= k / 10 - 1e-12], default=0.0) / 11
    return total


def plain_area(curve):
    """VOCap: put (0, 0) and (1, 0) at the ends, make precision fall, add rectangles where recall changes."""
    recall = [0.0, *[r for r, _ in curve], 1.0]
    precision = [0.0, *[p for _, p in curve], 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


@pytest.mark.parametrize("seed", SEEDS)
def test_voc_equals_a_plain_implementation(seed):
    truth, detections = random_case(seed, crowds=False)
    matches = match_detections(truth, detections, range(3))
    for label, of_class in matches.items():
        objects, curve = plain_voc_curve(truth, detections, label)
        assert of_class.objects == objects
        if objects:
            assert eleven_points(of_class) == pytest.approx(plain_eleven_points(curve), abs=1e-12)
            assert area_under_envelope(of_class) == pytest.approx(plain_area(curve), abs=1e-12)


def plain_darknet(truth, detections, classes):
    """darknet's detector map, rank by rank over all classes; returns the APs and the counts at 0.25."""
    ranked = sorted(
        ((score, image, box, k) for k in range(classes) for score, image, box in listed(detections, k)),
        key=lambda row: -row[0],
    )
    seen, hits, wrong = set(), [0] * classes, [0] * classes
    history = [[] for _ in range(classes)]
    shown = {"right": 0, "wrong": 0, "overlap": 0.0}
    for score, image, box, label in ranked:
        it = truth.items[image]
        best, chosen, near_difficult = 0.5, None, False
        for k in range(len(it.labels)):
            if it.labels[k] == label and iou(box, it.boxes[k]) > 0.5:
                if it.difficult[k]:
                    near_difficult = True
                elif iou(box, it.boxes[k]) > best:
                    best, chosen = iou(box, it.boxes[k]), k
        if chosen is None and near_difficult:
            continue
        right = chosen is not None and (image, chosen) not in seen
        if right:
            seen.add((image, chosen))
        hits[label] += right
        wrong[label] += not right
        if score > 0.25:
            shown["right" if right else "wrong"] += 1
            shown["overlap"] += best if right else 0.0
        history[label].append((hits[label], hits[label] + wrong[label]))
    averages = []
    for label in range(classes):
        objects = sum(
            1 for it in truth.items for k, d in zip(it.labels, it.difficult, strict=True) if k == label and not d
        )
        average, last_recall, best = 0.0, None, 0.0
        for hit, count in reversed(history[label]):
            recall = hit / objects if objects else 0.0
            average += (last_recall - recall) * best if last_recall is not None else 0.0
            last_recall, best = recall, max(best, hit / count)
        averages.append(average + (last_recall or 0.0) * best)
    return averages, shown


@pytest.mark.parametrize("seed", SEEDS)
def test_darknet_equals_a_plain_implementation(seed):
    truth, detections = random_case(seed, crowds=False)
    matches = match_detections(truth, detections, range(3), MatchRule.DARKNET)
    metrics = darknet_metrics(matches)
    averages, shown = plain_darknet(truth, detections, 3)
    objects = sum(m.objects for m in matches.values())
    count = shown["right"] + shown["wrong"]
    assert metrics.map50 == pytest.approx(sum(averages) / 3, abs=1e-12)
    assert metrics.precision == pytest.approx(shown["right"] / max(count, 1))
    assert metrics.recall == pytest.approx(shown["right"] / max(objects, 1))
    assert metrics.mean_iou == pytest.approx(shown["overlap"] / max(count, 1))
    for label, of_class in matches.items():
        if of_class.objects:
            assert area_under_envelope(of_class) == pytest.approx(averages[label], abs=1e-12)


def test_hand_computed_case():
    """Hit, miss, hit, double detection; one of three objects is never found."""
    truth = dataset(item([A, B]), item([C]))
    matches = match_detections(truth, [found((A, 0.9), (NOWHERE, 0.8), (A, 0.6)), found((C, 0.7))], [0])[0]
    assert eleven_points(matches) == pytest.approx((4 + 3 * 2 / 3) / 11)
    assert area_under_envelope(matches) == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)


def test_a_recall_of_exactly_a_tenth_reaches_its_point():
    """3 of 10 objects: recall 0.3 counts for the points 0, 0.1, 0.2 and 0.3, whatever 0.3 is in binary."""
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(10)]
    matches = match_detections(dataset(item(boxes)), [found(*((box, 0.9) for box in boxes[:3]))], [0])[0]
    assert eleven_points(matches) == pytest.approx(4 / 11)


def test_classes_without_objects():
    truth = dataset(item([A], [0]), names=("cat", "dog"))
    matches = match_detections(truth, [found((A, 0.9, 0), (B, 0.8, 1))], [0, 1], MatchRule.DARKNET)
    assert math.isnan(eleven_points(matches[1]))
    assert math.isnan(area_under_envelope(matches[1]))
    assert darknet_metrics(matches).map50 == pytest.approx(0.5)  # darknet's mean counts it as 0


def test_darknet_counts_above_a_quarter():
    truth = dataset(item([A, B]))
    detections = [found((A, 0.9), (NOWHERE, 0.5), (NOWHERE, 0.26), (B, 0.25))]
    metrics = darknet_metrics(match_detections(truth, detections, [0], MatchRule.DARKNET))
    assert (metrics.precision, metrics.recall, metrics.mean_iou) == pytest.approx((1 / 3, 1 / 2, 1 / 3))
    assert metrics.f1 == pytest.approx(2 / (3 + 2))
