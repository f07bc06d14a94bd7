# SPDX-License-Identifier: Apache-2.0
"""A fixture for folders and files of tests that train or run tiny models: import it there."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
