"""URIs, and what the texts of errors say."""

import pytest

from comigs_mlx.errors import ComigsError, FederationError
from comigs_mlx.federation.exchanges import base
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.exchanges.hub.exchange import HubExchange
from comigs_mlx.federation.exchanges.open import open_exchange
from comigs_mlx.federation.formats.uri import hub_address


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("hf://ann/pool", ("ann/pool", "main")),
        ("hf://Ann-1/my.pool_2@dev", ("Ann-1/my.pool_2", "dev")),
        ("hf://ann/pool@refs/pr/12", ("ann/pool", "refs/pr/12")),
        ("hf://ann/pool@feature/x.y", ("ann/pool", "feature/x.y")),
    ],
)
def test_hub_addresses(uri, address):
    assert hub_address(uri) == address
    opened = open_exchange(uri)
    assert isinstance(opened, HubExchange)
    assert (opened.repo, opened.branch, opened.uri) == (*address, uri)


@pytest.mark.parametrize(
    "uri",
    ["hf://", "hf:ann/pool", "hf:/ann/pool", "hf://ann", "hf://ann/", "hf:///pool",
     "hf://ann/pool/x", "hf://ann/pool@", "hf://ann/pool@a b", "hf://ann/../x",
     "hf://ann/pool@../x", "hf://a b/pool", "hf://ann/pool\n", "https://hf.co/ann/pool",
     "s3://bucket/pool", "file:///tmp/pool", "hf://ann/pool?x=1", "hf://ann/pöol",
     "HF://ann/pool", "", " ", "a\0b", "mailto:ann"],
)  # fmt: skip
def test_bad_uris_are_one_clear_sentence(uri):
    with pytest.raises(FederationError) as error:
        open_exchange(uri)
    text = str(error.value)
    assert "is no federation: write hf://owner/repo" in text
    assert "\n" not in text


def test_anything_else_is_a_folder_and_nothing_is_made_by_opening(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for uri, root in (
        ("pool", "pool"),
        ("./a b/pool", "a b/pool"),
        ("~/pool", "pool"),
        ("owner/repo", "owner/repo"),
        (str(tmp_path / "x"), "x"),
        (tmp_path / "y", "y"),
    ):
        opened = open_exchange(uri)
        assert isinstance(opened, FolderExchange)
        assert opened.root == tmp_path / root
    assert list(tmp_path.iterdir()) == []


def test_every_error_is_shown_to_the_user_as_it_is():
    for name in ("Moved", "NotThere", "NotAllowed", "TooLarge", "Unreachable"):
        assert issubclass(getattr(base, name), ComigsError)
