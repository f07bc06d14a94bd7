# SPDX-License-Identifier: Apache-2.0
"""The names of the package are those its modules have, for type checkers and at run time alike."""

import ast
import inspect

import pytest

import yolo_hw


@pytest.mark.parametrize("name", yolo_hw.__all__)
def test_a_public_name_can_be_used(name):
    assert getattr(yolo_hw, name) is not None


def test_type_checkers_see_the_same_names():
    tree = ast.parse(inspect.getsource(yolo_hw))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {alias.asname for node in guarded.body for alias in node.names}
    assert declared == set(yolo_hw.__all__) - {"__version__"}
