"""What counts as memory that has run out."""

import pytest

from comigs_mlx.errors import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[malloc_or_wait] Unable to allocate 9000000000 bytes."),
        RuntimeError("[malloc] Unable to allocate 9000000000 bytes."),
        RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is"),
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory"),
        RuntimeError("cudaMallocAsync(&data, size, stream) failed: out of memory"),
    ],
)
def test_memory_has_run_out(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[matmul] shapes (2, 3) and (4, 5) do not fit"),
        RuntimeError("a reallocation of memory maps was refused"),
        ValueError("[malloc] Unable to allocate 9 bytes."),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_other_errors_are_not_of_memory(error):
    assert not is_out_of_memory(error)
