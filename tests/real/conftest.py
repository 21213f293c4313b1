"""The demo model, and one short run of it that all tests of this tier share."""

import pytest

from comigs_mlx import train
from tests.model.test_demo import real_demo  # noqa: F401  (a fixture)

WORDS = (
    "The mill by the river was old, and nobody in the village knew who had built it. "
    "In spring the water rose to the third step, and the miller counted the days. "
    "His daughter wrote every flood in a green book, with the hour and the weather. "
)
SETTING = {
    "batch-size": 1,
    "seq-len": 32,
    "num-layers": 8,
    "steps": 4,
    "router-every": 2,
    "router-steps": 1,
    "save-every": 2,
    "valid-batches": 1,
}


@pytest.fixture(scope="session")
def real_run(real_demo, tmp_path_factory):  # noqa: F811
    """The folder of a run of four steps, saved after two and after four."""
    root = tmp_path_factory.mktemp("real")
    text, run = root / "text", root / "run"
    text.mkdir()
    for name in ("train", "valid", "test"):
        (text / f"{name}.txt").write_text(f"{name.title()}. " + 3 * WORDS)
    flags = [part for name, value in SETTING.items() for part in (f"--{name}", value)]
    paths = ["--data", text, "--run", run]
    train.main([str(part) for part in [*paths, *flags]])
    return run
