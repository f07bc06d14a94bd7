# SPDX-License-Identifier: Apache-2.0
"""An integer graph on disk: a folder with ``graph.json`` and ``params.npz``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from yolo_hw.atomic import atomic_folder
from yolo_hw.errors import GraphError
from yolo_hw.intgraph.arrays import read_arrays, write_arrays
from yolo_hw.intgraph.check import check_graph
from yolo_hw.intgraph.codec import Json, decode_graph, encode_graph
from yolo_hw.intgraph.graph import IntGraph

GRAPH_FILE = "graph.json"
ARRAYS_FILE = "params.npz"
MAX_JSON_BYTES = 64 << 20


def save_graph(graph: IntGraph, folder: str | Path) -> None:
    """Write a graph; equal graphs give equal bytes. An older graph in the folder is replaced."""
    document, arrays = encode_graph(graph)
    with atomic_folder(folder, marker=GRAPH_FILE) as temporary:
        (temporary / GRAPH_FILE).write_bytes(json_bytes(document))
        write_arrays(temporary / ARRAYS_FILE, arrays)


def load_graph(folder: str | Path) -> IntGraph:
    """Read and check a graph.

    Raises:
        GraphError: A file is missing or malformed, or the graph violates an invariant.
    """
    folder = Path(folder)
    graph = decode_graph(read_json(folder / GRAPH_FILE), read_arrays(folder / ARRAYS_FILE))
    check_graph(graph)
    return graph


def json_bytes(document: Json) -> bytes:
    """Return a document as reproducible UTF-8 JSON."""
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Json:
    """Read a JSON object of bounded size.

    Raises:
        GraphError: Missing, too large, or no JSON object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise GraphError(f"{path}: a JSON file has at most {MAX_JSON_BYTES} bytes, got {size}")
        document = json.loads(path.read_bytes(), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except OSError as error:
        raise GraphError(f"{path}: cannot read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise GraphError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(document, dict):
        raise GraphError(f"{path}: must hold a JSON object")
    return document


def _unique_keys(pairs: list[tuple[str, Any]]) -> Json:
    document = dict(pairs)
    if len(document) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(key for key in keys if keys.count(key) > 1)[:80]}' occurs twice in an object")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
