"""A release of huggingface_hub without a name that this program needs is named."""

import re
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.utils import _http

import comigs_mlx
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.hub import internals


def test_the_tested_release_has_all_names():
    internals.check()
    assert callable(internals.client_factory())
    operation = huggingface_hub.CommitOperationAdd("a.txt", b"1")
    assert not internals.is_ignored(operation)
    assert not internals.is_committed(operation)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (_http, internals.FACTORY),
        (huggingface_hub.CommitOperationAdd, internals.IGNORED),
        (huggingface_hub.CommitOperationAdd, internals.COMMITTED),
    ],
)
def test_a_release_without_one_is_named(monkeypatch, owner, name):
    monkeypatch.delattr(owner, name)
    with pytest.raises(FederationError, match=f"has no {name}, which this program"):
        internals.check()


def test_no_other_module_of_a_federation_uses_private_names_of_the_library():
    names = re.compile(r"\b(_http\b|_GLOBAL\w+|_should_ignore|_is_committed)")
    root = Path(comigs_mlx.__file__).parent / "federation"
    using = {p.name for p in root.rglob("*.py") if names.search(p.read_text())}
    assert using == {"internals.py"}
