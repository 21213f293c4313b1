"""Fixtures of all tests. comigs_mlx is imported first: it loads the fast BLAS."""

import comigs_mlx  # noqa: F401  isort: skip

import pytest

import tests.tiny as tiny


@pytest.fixture(autouse=True)
def _private_hub_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's Hugging Face folder."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """(family, bits) -> the folder of a tiny random model, written once."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def folder(family="llama", bits=None):
        key = (family, bits)
        if key not in made:
            made[key] = tiny.write_model(root / f"{family}-{bits}", family, bits)
        return made[key]

    return folder


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """train.txt, valid.txt and test.txt of a few hundred short documents."""
    return tiny.write_text(tmp_path_factory.mktemp("text"))
