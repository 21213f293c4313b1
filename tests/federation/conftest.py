import itertools

import pytest

import tests.hub_server as hub_server
from comigs_mlx import registry
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.exchanges.hub import exchange as hub_exchange
from comigs_mlx.federation.exchanges.hub.exchange import HubExchange
from comigs_mlx.federation.exchanges.memory import MemoryExchange, MemoryStore

TOKENS = {user: token for token, user in hub_server.USERS.items()}
NAMES = itertools.count()


def reach(monkeypatch, endpoint, token, **given):
    """Commands open every repository there and with this token, whatever they say."""
    given = {"endpoint": endpoint, "token": token, **given}
    opened = lambda *address, **others: HubExchange(*address, **{**others, **given})
    monkeypatch.setattr(hub_exchange, "HubExchange", opened)


@pytest.fixture(scope="session")
def _server():
    with hub_server.Server() as server:
        yield server


@pytest.fixture
def hub(_server):
    """The loopback Hub, without what an earlier test left."""
    _server.usual()
    return _server


@pytest.fixture
def repo():
    return f"ann/pool-{next(NAMES)}"


@pytest.fixture
def on_hub(hub, repo):
    """Open the repository as a user; keywords as of HubExchange."""

    def exchange(user="ann", **options):
        token = TOKENS.get(user, user) if user else False
        given = {"endpoint": hub.url, "token": token, "patience": 10, **options}
        return HubExchange(given.pop("repo", repo), **given)

    return exchange


OTHERS = sorted(set(registry.names("exchange")) - set(registry.built_in("exchange")))
"""Schemes of installed plugins."""


@pytest.fixture(params=["memory", "folder", "hub", *OTHERS])
def exchange(request, tmp_path):
    """(user) -> an exchange on one repository, of each kind; nothing is made yet."""
    if request.param == "memory":
        store = MemoryStore()
        return lambda user="ann": MemoryExchange(user, store)
    if request.param == "folder":
        return lambda user="ann": FolderExchange(tmp_path / "pool", user)
    if request.param in OTHERS:
        uri = f"{request.param}://{tmp_path}/pool"
        connect = registry.load("exchange", request.param).connect
        return lambda user="ann": connect(uri, account=user, patience=10, say=print)
    on_hub, hub = (request.getfixturevalue(name) for name in ("on_hub", "hub"))
    repo = request.getfixturevalue("repo")

    def made(user="ann"):
        if repo in hub.store.repos and user != "ann":
            hub.store.repos[repo].rights[user] = "write"
        return on_hub(user)

    return made
