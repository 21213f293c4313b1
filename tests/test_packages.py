"""Versions of what is installed."""

from importlib import metadata

from comigs_mlx import packages


def test_of_a_package_that_is_there():
    assert packages.version("mlx") == metadata.version("mlx")


def test_of_one_that_is_not():
    assert packages.version("no-such-package") == ""
    assert packages.version("no-such-package", missing="unknown") == "unknown"
