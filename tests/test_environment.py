"""Where numbers were measured: the versions of what is installed."""

from importlib import metadata

from comigs_mlx import environment


def test_of_a_package_that_is_there():
    assert environment.version("mlx") == metadata.version("mlx")


def test_of_one_that_is_not():
    assert environment.version("no-such-package") == ""
    assert environment.version("no-such-package", missing="unknown") == "unknown"
