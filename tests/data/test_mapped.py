"""Texts in one mapped file: equal to what was given, with one open file for all."""

import os
import sys

import numpy as np
import pytest

from comigs_mlx.data.mapped import MappedTexts
from comigs_mlx.data.tokens import LabelledSample, TokenStream


def stream(count):
    tokens = np.arange(count, dtype=np.int32) * 7
    return TokenStream(tokens, np.arange(count, dtype=np.int32) // 3)


def samples(*lengths):
    return [
        LabelledSample(np.arange(n, dtype=np.int32), np.arange(n) % 2 == 0)
        for n in lengths
    ]


def test_texts_are_what_they_were():
    given = [stream(10), samples(3, 1, 8), stream(1), samples(), stream(5)]
    with MappedTexts() as texts:
        kept = [texts.keep(content) for content in given]
    for content, text in zip(given, kept, strict=True):
        found = text()
        if isinstance(content, TokenStream):
            content, found = [content], [found]
        assert len(found) == len(content)
        for one, other in zip(content, found, strict=True):
            for name in vars(one):
                a, b = getattr(one, name), getattr(other, name)
                assert (a.dtype, a.tolist()) == (b.dtype, b.tolist())


def test_nothing_at_all():
    with MappedTexts() as texts:
        text = texts.keep(samples())
    assert text() == []


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_a_thousand_texts_take_one_file_and_no_name(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    with MappedTexts() as texts:
        kept = [texts.keep(stream(i + 2)) for i in range(1000)]
    contents = [text() for text in kept]
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert contents[999].tokens.tolist() == stream(1001).tokens.tolist()
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    with pytest.raises(ValueError, match="read-only"):
        contents[0].tokens[0] = 1


def test_an_error_inside_leaves_no_file_open():
    texts = MappedTexts()
    with pytest.raises(AttributeError), texts:
        texts.keep([None])
    assert texts._file.closed
