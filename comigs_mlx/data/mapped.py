"""Tokens of many texts, memory-mapped together in one file without a name.

A map of its own for every text would keep a file open for each, and a process may have
few of them (256 on a Mac). The file has no name from its first moment on, so nobody
else can open it, and it is gone when the process is.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from comigs_mlx.data.content import Content
from comigs_mlx.data.tokens import LabelledSample, TokenStream
from comigs_mlx.files import cache_dir

AnyArray = npt.NDArray[Any]

ALIGNED = 8
"""The bytes that every array begins at a multiple of."""


class MappedTexts:
    """Takes texts one after the other in a block, and gives them back after it."""

    def __init__(self) -> None:
        """Make the file, in the user's cache folder if it can be written.

        Folders for temporary files may be in memory, which is what is to be spared.
        """
        try:
            folder = cache_dir()
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)
        except OSError:
            self._file = tempfile.TemporaryFile()
        self._mapped: AnyArray | None = None

    def keep(self, content: Content) -> Callable[[], Content]:
        """Write a text; return a function that gives it mapped, after the block."""
        if isinstance(content, TokenStream):
            tokens, documents = self._add(content.tokens), self._add(content.documents)
            return lambda: TokenStream(tokens(), documents())
        samples = [(self._add(s.tokens), self._add(s.labelled)) for s in content]
        return lambda: [LabelledSample(t(), labelled()) for t, labelled in samples]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Map the whole file, to which nothing is added any more."""
        with self._file:
            self._file.flush()
            if kind is None and self._file.tell():
                whole = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
                self._mapped = np.frombuffer(whole, np.uint8)

    def _add(self, array: AnyArray) -> Callable[[], AnyArray]:
        self._file.write(bytes(-self._file.tell() % ALIGNED))
        begin, dtype, count = self._file.tell(), array.dtype, len(array)
        self._file.write(np.ascontiguousarray(array).data)
        end = begin + array.nbytes

        def mapped() -> AnyArray:
            assert self._mapped is not None or not count
            if self._mapped is None or not count:
                return np.zeros(0, dtype)
            return self._mapped[begin:end].view(dtype)

        return mapped
