# SPDX-License-Identifier: Apache-2.0
"""On-chip memory images as text: ``.mem`` ($readmemh), ``.coe`` (Xilinx) and ``.mif`` (Intel)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

MAX_WORDS = 1 << 20
"""Longer memories are not written as text: a tool would need minutes to read them, and no device has them on chip."""


def to_words(data: bytes, word_bytes: int) -> list[str]:
    """Return the words of little-endian `data` as hex strings, byte 0 in the least significant position."""
    padded = np.frombuffer(data + bytes(-len(data) % word_bytes), np.uint8).reshape(-1, word_bytes)
    return [row.tobytes().hex() for row in padded[:, ::-1]]


def mem_text(words: Iterable[str], title: str) -> str:
    """Return a ``$readmemh`` file: one word per line, lane 0 in the low bits."""
    return "\n".join([f"// {title}", *words]) + "\n"


def coe_text(words: Iterable[str], title: str) -> str:
    """Return a Xilinx coefficient file."""
    head = f"; {title}\nmemory_initialization_radix=16;\nmemory_initialization_vector=\n"
    return head + ",\n".join(words) + ";\n"


def mif_text(words: Iterable[str], title: str) -> str:
    """Return an Intel memory initialisation file."""
    listed = list(words)
    head = (
        f"-- {title}\nWIDTH={4 * len(listed[0])};\nDEPTH={len(listed)};\nADDRESS_RADIX=HEX;\nDATA_RADIX=HEX;\n"
        "CONTENT BEGIN\n"
    )
    return head + "".join(f"{i:x} : {word};\n" for i, word in enumerate(listed)) + "END;\n"


FORMATS: dict[str, Callable[[Iterable[str], str], str]] = {"mem": mem_text, "coe": coe_text, "mif": mif_text}
"""File suffix -> writer."""


def text_memories(name: str, data: bytes, word_bytes: int) -> dict[str, str]:
    """Return the text files of one memory by file name, empty if it has more than `MAX_WORDS` words."""
    words = to_words(data, word_bytes)
    if not words or len(words) > MAX_WORDS:
        return {}
    title = f"{name}: {len(words)} words of {8 * word_bytes} bits, byte 0 in bits 7..0"
    return {f"{name}.{suffix}": write(words, title) for suffix, write in FORMATS.items()}
