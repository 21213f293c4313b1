"""Headers from strangers are read up to a length that is settled beforehand."""

import json
import time

import numpy as np
import pytest

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats import adapter
from comigs_mlx.federation.formats.tensor_file import read_shapes
from comigs_mlx.tensors import serialise
from tests.federation import sharing

CURRENT = sharing.tensors(generalists=2)
AGREED = sharing.manifest(CURRENT, 2)


def padded(count):
    """A generalist's file with so many empty tensors more."""
    contents = adapter.files(CURRENT, AGREED)
    content = contents["adapters.safetensors"]
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    end = len(content) - 8 - length
    more = {"dtype": "F32", "shape": [0, 2], "data_offsets": [end, end]}
    header |= {f"model.layers.{i}.mlp.x.lora_a": more for i in range(count)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = content[8 + length :]
    contents["adapters.safetensors"] = len(text).to_bytes(8, "little") + text + body
    return {path: contents[path] for path in adapter.paths(AGREED)}


def test_shapes_are_those_of_the_file():
    values = {"b": np.zeros((2, 3), np.float32), "a": np.ones((4, 1), np.float32)}
    content = serialise(values, {"format": "mlx"})
    assert read_shapes(content, 1000) == {"a": (4, 1), "b": (2, 3)}
    for wrong in (content[:-1], content + b"0", b"", b"\xff" * 40):
        with pytest.raises(FederationError):
            read_shapes(wrong, 1000)
    with pytest.raises(FederationError, match="not a safetensors file"):
        read_shapes(content, 20)


def test_a_header_of_many_empty_tensors_costs_nothing():
    contents = padded(20_000)
    begin = time.process_time()
    with pytest.raises(FederationError, match="adapters.safetensors .* is damaged"):
        adapter.read(contents, AGREED)
    assert time.process_time() - begin < 0.2


def test_generalists_of_the_manifests_shape_pass_for_who_has_no_run():
    contents = {p: adapter.files(CURRENT, AGREED)[p] for p in adapter.paths(AGREED)}
    found = adapter.read(contents, AGREED)
    assert found.keys() == CURRENT.keys()
    assert all(np.array_equal(found[name], CURRENT[name]) for name in CURRENT)
