# SPDX-License-Identifier: Apache-2.0
"""Measurements of yolo_hw against other libraries and against the machine: ``python -m benchmarks --list``."""
