"""Fixtures of the app's tests: a model queue with an engine of plain data."""

import time

import pytest

from app.model_queue import ModelQueue
from tests.app.speaking import Parrot


@pytest.fixture
def model_queue():
    """(options of Parrot) -> a model queue, and its parrot."""
    opened = []

    def make(**options):
        parrot = Parrot(**options)
        opened.append(ModelQueue(lambda say: parrot))
        return opened[-1], parrot

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def until():
    """Wait for a condition of another thread, at most some seconds."""

    def wait(condition, seconds=10.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.005)

    return wait
