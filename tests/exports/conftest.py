"""A trained run whose router weighs token by token, and ways to export it."""

import contextlib

import pytest

from comigs_mlx.exports.exporting import Request, export
from comigs_mlx.messages import quiet
from comigs_mlx.runs.folder import RunFolder

TRAINED = {"steps": 4, "learning_rate": 0.05, "router_steps": 8}


@contextlib.contextmanager
def no_progress(total, what):
    yield lambda note: None


@pytest.fixture
def exported(trained, tmp_path):
    """(format, options of a request) -> the results, of a run of a tiny model."""

    def make(name, family="llama", bits=None, run=None, out="out", say=quiet, **given):
        folder = RunFolder(run or trained(family=family, bits=bits, **TRAINED))
        request = Request(folder, tmp_path / out, name, **{"max_gap": 9.0, **given})
        return export(request, say, no_progress)

    return make
