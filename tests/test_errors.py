"""What counts as memory that has run out, and as the GPU's watchdog."""

import pytest

from comigs_mlx.errors import is_gpu_watchdog, is_lost_peer, is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[malloc_or_wait] Unable to allocate 9000000000 bytes."),
        RuntimeError("[malloc] Unable to allocate 9000000000 bytes."),
        RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is"),
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory"),
        RuntimeError("(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"),
        RuntimeError("[metal::malloc] Resource limit (499000) exceeded."),
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


FAILED = "[METAL] Command buffer execution failed: "
WATCHDOG = {
    "ImpactingInteractivity": "Impacting Interactivity (0000000e:{})",
    "Timeout": "Caused GPU Timeout Error (00000002:{})",
    "Hang": "Caused GPU Hang Error (00000003:{})",
    "SubmissionsIgnored": (
        "Ignored (for causing prior/excessive GPU errors) (00000004:{})"
    ),
    "InnocentVictim": "Discarded (victim of GPU error/recovery) (00000005:{})",
}
"""The causes as they are reported, each by its name and by its words."""


@pytest.mark.parametrize("name", WATCHDOG)
def test_the_gpu_watchdog(name):
    cause = f"kIOGPUCommandBufferCallbackError{name}"
    words = WATCHDOG[name].format("").partition("(0000")[0]
    for text in (FAILED + WATCHDOG[name].format(cause), cause, FAILED + words):
        assert is_gpu_watchdog(RuntimeError(text))
        assert not is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(f"{FAILED}Insufficient Memory (00000008:kIOGPUCommandBuffer"),
        RuntimeError(f"{FAILED}Invalid Resource (00000009:kIOGPUCommandBuffer"),
        RuntimeError("a timeout"),
        OSError(60, "Operation timed out"),
    ],
)
def test_other_errors_are_not_of_the_watchdog(error):
    assert not is_gpu_watchdog(error)


def test_a_lost_peer():
    lost = "[ring] connection to a peer was lost"
    assert is_lost_peer(RuntimeError(lost))
    assert is_lost_peer(RuntimeError("[jaccl] Recv failed with status 12"))
    assert not is_lost_peer(OSError(lost))
    assert not is_lost_peer(RuntimeError("[matmul] shapes do not fit"))
