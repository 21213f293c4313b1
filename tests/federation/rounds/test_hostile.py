"""Thousands of damaged files: none accepted, none crashes, none takes much memory."""

import json
import random
import tracemalloc

import numpy as np
import pytest

import tests.federation.sharing as sharing
import tests.tiny as tiny
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.contribution import Contribution
from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.federation.rounds.checks import Expected, Refused, check_contribution
from tests.federation.rounds.test_checks import ADAPTER, CURRENT, GOOD, META, with_file

AGREED = sharing.manifest(CURRENT, 2)
EXPECTED = Expected(AGREED, 3, Arrays("", CURRENT))
ROUND = Round(contributors=("ann",), weights={"ann": 1.0}, round=2)
FILES = {
    Contribution: GOOD[META],
    Manifest: AGREED.to_json(),
    Round: ROUND.following({"ann": 1.0}, "mean", 5.0, ["ann"]).to_json(),
}
TRIES = tiny.examples(1000)
MOST = 2**20
"""Bytes that reading one of these small files may take at once."""

TOKENS = [
    b"", b"{", b"}", b"[" * 200, b'"', b",", b":", b"-", b"1e999", b"NaN", b"null",
    b"9" * 50, b"\x00", b"\xff\xfe", b"\\ud800", b'"a":1,', b'{"a":' * 99, b"true",
]  # fmt: skip


def damaged(content, seed):
    """`content` with one to three places cut out and something else put in."""
    made, draw = bytearray(content), random.Random(seed)
    for _ in range(draw.randint(1, 3)):
        where = draw.randrange(len(made) + 1)
        new = draw.choice(TOKENS) if draw.random() < 0.7 else draw.randbytes(9)
        made[where : where + draw.choice((0, 1, 1, 8, 10**6))] = new
    return bytes(made)


@pytest.fixture
def memory():
    """(work) -> its result; fails where it held more than `MOST` bytes at once."""
    tracemalloc.start()

    def watched(work):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        result = work()
        assert tracemalloc.get_traced_memory()[1] - before < MOST
        return result

    yield watched
    tracemalloc.stop()


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.__name__)
def test_damaged_json(kind, memory):
    """It is refused in our words, or says something that is in order."""
    problems = []
    for seed in range(TRIES):
        content = damaged(FILES[kind], seed)
        try:
            read = memory(lambda content=content: kind.from_json(content))
            assert kind.from_json(read.to_json()) == read
        except FederationError as error:
            problems.append(str(error))
    assert len(problems) > TRIES * 0.8
    for text in problems:
        assert len(text) < 20_000
        assert text.replace("\n", "").isprintable()


def test_damaged_tensor_files_with_a_digest_that_fits(memory):
    """Where one is taken, its tensors have the names and shapes agreed, and numbers."""
    good, refused = GOOD[ADAPTER], 0
    header = 8 + int.from_bytes(good[:8], "little")
    for seed in range(TRIES):
        files = with_file(damaged(good[:header], seed) + good[header:])
        found = memory(lambda files=files: check_contribution(files, "ann", EXPECTED))
        if isinstance(found, Refused):
            refused += 1
            assert found.reason.isprintable()
            continue
        for name in found.names():
            assert found.read(name).shape == CURRENT[name].shape
            assert np.isfinite(found.read(name)).all()
    assert refused > TRIES * 0.95


@pytest.mark.parametrize("size", [2**31, 2**63 - 1, 10**15])
def test_a_header_that_promises_the_world_takes_nothing(memory, size):
    entry = {"dtype": "F16", "shape": [size], "data_offsets": [0, 2 * size]}
    text = json.dumps({"model.layers.0.mlp.down_proj.lora_a": entry}).encode()
    for length in (len(text), size):
        files = with_file(length.to_bytes(8, "little") + text)
        found = memory(lambda files=files: check_contribution(files, "ann", EXPECTED))
        assert isinstance(found, Refused)
