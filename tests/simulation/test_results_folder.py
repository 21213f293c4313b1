"""The folder of a simulation, where its configuration is compared."""

import dataclasses

import pytest

from comigs_mlx.config import dump_yaml, read_yaml
from comigs_mlx.errors import ConfigError, RunError
from comigs_mlx.simulation.options import RoundOptions, SimulateConfig
from comigs_mlx.simulation.results_folder import ResultsFolder


@pytest.fixture
def config(tmp_path):
    return SimulateConfig(users="texts", out=str(tmp_path / "out"))


def test_one_of_an_earlier_version_without_an_option_resumes(config):
    with ResultsFolder(config).in_use({}):
        pass
    file = config.folder / "config.yaml"
    kept = [
        line
        for line in file.read_text().splitlines()
        if not line.startswith(("outsized", "norm_factor", "norm-factor"))
    ]
    file.write_text("\n".join(kept) + "\n")
    assert len(read_yaml(file)) == len(read_yaml_of(config)) - 2
    resumed = dataclasses.replace(config, resume=True)
    ResultsFolder(resumed).check()
    other = dataclasses.replace(resumed, sharing=RoundOptions(outsized="clip"))
    with pytest.raises(ConfigError, match="--outsized is 'off' there, 'clip' here"):
        ResultsFolder(other).check()


def read_yaml_of(config):
    """The options as they are written."""
    file = config.folder / "other.yaml"
    file.write_text(dump_yaml(config))
    return read_yaml(file)


def test_two_at_once_is_an_error_that_names_the_flag(config):
    with (
        ResultsFolder(config).in_use({}),
        pytest.raises(RunError, match="in use by another process: .* --out"),
        ResultsFolder(config).in_use({}),
    ):
        pass
