"""A journal that somebody else has written: one line, no waiting, nothing followed."""

import contextlib
import json
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges import folder_journal as journal_module
from comigs_mlx.federation.exchanges.base import NotAllowed
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.exchanges.folder_journal import (
    DONE,
    HIDDEN,
    PENDING,
    Journal,
)

GOOD = {"commits": 1, "staged": {}, "deleted": []}


@pytest.fixture
def pool(tmp_path):
    made = FolderExchange(tmp_path / "pool", patience=1)
    made.create()
    made.commit({"a": b"1"}, "one")
    (made.root / HIDDEN / DONE).unlink()
    return made


def refused(pool, name):
    """Reading and writing say the same one line."""
    for call in (pool.snapshot, lambda: pool.commit({"b": b"2"}, "two")):
        with pytest.raises(NotAllowed, match=f"{name}, which is damaged") as error:
            call()
        assert "\n" not in str(error.value)
    assert (pool.root / "a").read_bytes() == b"1"
    assert not (pool.root / "b").exists()


BAD = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "infinity": b'{"commits": Infinity, "staged": {}, "deleted": []}',
    "large": b'{"commits": 1e999, "staged": {}, "deleted": []}',
    "nan": b'{"commits": NaN, "staged": {}, "deleted": []}',
    "digits": b'{"commits": %s, "staged": {}, "deleted": []}' % (b"9" * 5000),
    "minus": b'{"commits": -1, "staged": {}, "deleted": []}',
    "true": b'{"commits": true, "staged": {}, "deleted": []}',
    "text": b'{"commits": "1", "staged": {}, "deleted": []}',
    "brackets": b"[" * 100_000,
    "braces": b'{"a":' * 100_000,
    "deep": b'{"commits": 1, "deleted": [], "staged": ' + b"[" * 50 + b"]" * 50 + b"}",
    "paths": b'{"commits": 1, "staged": {"../a": "stage-%s/0"}, "deleted": []}'
    % (b"0" * 16),
    "names": b'{"commits": 1, "staged": {"a": "../../a"}, "deleted": []}',
    "no text": b'{"commits": 1, "staged": {"a": 5}, "deleted": []}',
    "numbers": b'{"commits": 1, "staged": {}, "deleted": [5]}',
    "half": b'{"commits": 1, "staged": {}}',
    "bytes": b"\xff\xfe",
    "surrogate": b'{"commits": 1, "staged": {}, "deleted": ["\\ud800"]}',
}


@pytest.mark.parametrize("name", [PENDING, DONE])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_journal_is_one_line(pool, name, kind):
    (pool.root / HIDDEN / name).write_bytes(BAD[kind])
    refused(pool, name)


@pytest.mark.parametrize("name", [PENDING, DONE])
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "link", "dead link"])
def test_what_is_no_file_is_neither_waited_for_nor_followed(pool, name, kind, tmp_path):
    place = pool.root / HIDDEN / name
    outside = tmp_path / "outside.json"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            folder = os.open(place.parent, os.O_RDONLY)
            here = os.open(".", os.O_RDONLY)
            os.fchdir(folder)
            made.bind(name)
            os.fchdir(here)
            os.close(folder)
            os.close(here)
    else:
        if kind == "link":
            outside.write_text(json.dumps(GOOD))
        place.symlink_to(outside)
    refused(pool, name)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["commits", "staged", "deleted", "a"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
@settings(max_examples=200, deadline=None)
def test_anything_else_is_read_or_refused(tmp_path_factory, value):
    root = tmp_path_factory.getbasetemp() / "any"
    (root / HIDDEN).mkdir(parents=True, exist_ok=True)
    (root / HIDDEN / PENDING).write_text(json.dumps(value))
    with contextlib.suppress(FederationError):
        assert Journal(root).state().commits >= 0


def test_round_json_takes_its_place_after_all_others(pool, monkeypatch):
    """A program that knows no journal must not see a new round with old values."""
    placed = []
    inner = os.replace

    def replace(source, target):
        placed.append(str(target).rpartition("pool/")[2])
        inner(source, target)

    monkeypatch.setattr(journal_module.os, "replace", replace)
    names = ["round.json", "a", "z.json", "adapters.safetensors", "contributions/1/x"]
    pool.commit(dict.fromkeys(names, b"2"), "close")
    mine = [name for name in placed if name in names]
    assert sorted(mine) == sorted(names)
    assert mine[-1] == "round.json"
