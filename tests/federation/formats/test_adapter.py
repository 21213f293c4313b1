"""The current generalists: nobody publishes, or pulls, what cannot be used."""

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.adapter import check_generalist
from comigs_mlx.federation.formats.tensor_source import Arrays, shapes
from comigs_mlx.tensors import serialise

CURRENT = sharing.tensors(generalists=2)
OWN = shapes(Arrays("", CURRENT))
ADAPTER, SECOND = "adapters.safetensors", "generalist-1/adapters.safetensors"
FIRST = next(iter(CURRENT))
FILES = {
    ADAPTER: serialise({n: a for n, a in CURRENT.items() if "/" not in n}, {}),
    SECOND: serialise(
        {n[13:]: a for n, a in CURRENT.items() if "/" in n}, {"format": "mlx"}
    ),
}
HALVES = {
    name: array.astype(np.float16) for name, array in CURRENT.items() if "/" not in name
}


def test_good_ones_are_returned():
    found = check_generalist(FILES, OWN)
    assert found.keys() == CURRENT.keys()
    assert all(np.array_equal(found[name], CURRENT[name]) for name in CURRENT)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({ADAPTER: FILES[ADAPTER]}, "generalist-1"),
        ({**FILES, ADAPTER: FILES[ADAPTER][:-4]}, "do not fill the file"),
        (
            {**FILES, ADAPTER: serialise(HALVES, {})},
            "is F16 [10, 2], expected F32 [10, 2]",
        ),
        (
            {
                **FILES,
                ADAPTER: FILES[ADAPTER].replace(
                    CURRENT[FIRST].tobytes(), b"\xff" * CURRENT[FIRST].nbytes
                ),
            },
            "is not finite",
        ),
    ],
)
def test_others_are_refused_in_one_short_line(files, problem):
    with pytest.raises(FederationError) as caught:
        check_generalist(files, OWN)
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 160
