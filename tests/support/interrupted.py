# SPDX-License-Identifier: Apache-2.0
"""Runs that break off, for tests of resuming."""

from __future__ import annotations

from yolo_hw.train import Callback


class InterruptedRunError(Exception):
    pass


class StopAt(Callback):
    """Breaks a run off after a step, or after the last callback of an epoch."""

    def __init__(self, step=0, epoch=0):
        self.step = step
        self.epoch = epoch

    def on_step(self, state, terms):
        if state.step == self.step:
            raise InterruptedRunError

    def on_epoch(self, state):
        if state.epoch == self.epoch:
            raise InterruptedRunError
