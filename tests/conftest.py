"""Fixtures of all tests. comigs_mlx is imported first: it loads the fast BLAS."""

import comigs_mlx  # noqa: F401  isort: skip

import pytest


@pytest.fixture(autouse=True)
def _private_hub_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's Hugging Face folder."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
