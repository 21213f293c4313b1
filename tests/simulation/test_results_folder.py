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


def test_files_that_cannot_be_read_are_named_with_what_to_do(config):
    folder = ResultsFolder(config)
    with folder.in_use({"base": "a"}):
        pass
    identity = config.folder / "identity.json"
    identity.write_text("{")
    with pytest.raises(
        RunError, match=r"identity.json, which is .*: use another --out"
    ):
        folder.in_use({"base": "a"}).__enter__()
    done = config.folder / "runs" / "fedavg-seed-0.json"
    assert folder._run("fedavg", 0) == done
    for content in ("{", "{}"):
        done.parent.mkdir(exist_ok=True)
        done.write_text(content)
        with pytest.raises(
            RunError, match=r"fedavg-seed-0.json, which is damaged .* again"
        ):
            folder.outcome("fedavg", 0)
