"""Whose a contribution is, where the history was rewritten or somebody interfered."""

import dataclasses
import hashlib
import json

import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.exchanges.base import Unreachable
from comigs_mlx.federation.exchanges.memory import MemoryExchange
from comigs_mlx.federation.formats.contribution import Contribution
from comigs_mlx.federation.formats.manifest import Member
from comigs_mlx.federation.rounds import attribution, closing, repository, submit

FIRST = sharing.tensors(blocks=1)


@pytest.fixture(params=["memory", "hub"])
def pool(request):
    """An exchange of each kind that knows accounts: `pool("ben")` is ben's."""
    if request.param == "memory":
        made = MemoryPool()
    else:
        hub, repo = (request.getfixturevalue(n) for n in ("hub", "repo"))
        made = HubPool(hub, repo, request.getfixturevalue("on_hub"))
    made("ann").create()
    made.begun()
    return made


class MemoryPool:
    def __init__(self):
        self.store = MemoryExchange("ann").store

    def __call__(self, user):
        return MemoryExchange(user, self.store)

    def begun(self):
        pass

    def squash(self, user):
        last = self.store.history[-1]
        squashed = {"author": user, "changed": frozenset(last.files)}
        self.store.history[:] = [
            dataclasses.replace(last, revision="5" * 40, **squashed)
        ]

    def rename(self, old, new):
        self.store.renamed[old] = new
        self.store.history[:] = [
            dataclasses.replace(c, author=new) if c.author == old else c
            for c in self.store.history
        ]


class HubPool:
    def __init__(self, hub, repo, on_hub):
        self.hub, self.repo, self.on_hub = hub, repo, on_hub

    def __call__(self, user):
        return self.on_hub(user)

    def begun(self):
        self.hub.store.repos[self.repo].rights.update(ben="write", eve="write")

    def squash(self, user):
        self.hub.store.repos[self.repo].squash("main", user, "squashed")

    def rename(self, old, new):
        self.hub.store.rename_account(old, new)


@pytest.fixture
def renames(pool):
    """Rename an account; undone at the end where the Hub is shared."""
    done = []

    def rename(old, new):
        pool.rename(old, new)
        done.append((old, new))

    yield rename
    for old, new in done:
        pool.rename(new, old)
        if isinstance(pool, HubPool):
            pool.hub.store.accounts.clear()


def begin(pool, listed=False, **options):
    names = ("ann", "ben", "eve")
    members = {name: Member(name, None) for name in names} if listed else None
    agreed = sharing.manifest(FIRST, participants=members, **options)
    return repository.initialise(pool("ann"), agreed, FIRST, 0.0)


def give(exchange, name, seed=1):
    federation = repository.current(exchange)
    return submit.contribute(exchange, federation, made(federation, name, seed))


def made(federation, name, seed=1):
    values = sharing.moved(FIRST, seed)
    given = {"participant": name, "round": federation.open_round}
    return sharing.contributed(values, FIRST, federation.manifest, **given)


def judged(exchange):
    """Names that count, with their accounts, and reasons of the others."""
    with closing.review(exchange, repository.current(exchange)) as found:
        names = [one.name for one in found.accepted]
        return {name: found.accounts.get(name) for name in names}, found.refused


def close(exchange):
    return closing.close_if_due(exchange, repository.current(exchange), 1.0)


@pytest.mark.parametrize("squasher", ["ann", "eve"])
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "open"])
def test_a_squashed_history_takes_no_name_away(pool, squasher, listed):
    begin(pool, listed, quorum=2)
    give(pool("ben"), "ben")
    give(pool("ann"), "ann", 2)
    pool.squash(squasher)
    if squasher == "eve":  # it must not make eve's files ben's: each says so again
        accepted, refused = judged(pool("ann"))
        if listed:
            assert set(refused) == {"ann", "ben"}
        else:  # they count, and the names stay free
            assert (accepted, refused) == ({"ann": None, "ben": None}, {})
        assert [give(pool(n), n, s) for n, s in (("ben", 1), ("ann", 2))] == [
            listed,
            listed,
        ]
    elif squasher == "ann":
        assert judged(pool("ann")) == ({"ann": "ann", "ben": "ben"}, {})
        assert not give(pool("ben"), "ben")  # the same is there, and counts
    owners = {} if squasher == "eve" and not listed else {"ann": "ann", "ben": "ben"}
    assert close(pool("ann")).round.owners == owners
    assert give(pool("ben"), "ben", 3)
    assert judged(pool("ann"))[0] == {"ben": "ben"}
    with pytest.raises(Exception, match="belongs to another account"):
        give(pool("eve"), "ben", 4)


def test_a_squash_between_rounds(pool):
    begin(pool, quorum=1)
    for seed in range(3):
        give(pool("ben"), "ben", seed)
        assert close(pool("ann")).round.owners == {"ben": "ben"}
        pool.squash("ann")


def test_what_somebody_states_of_another_is_not_believed(pool):
    """Only the history's word counts, and the manifest owner's where that is gone."""
    begin(pool, listed=True)
    federation = repository.current(pool("eve"))
    forged = made(federation, "ben", 7).by("ben")
    changes = submit.contribution_changes(federation, forged)
    pool("eve").commit(changes, "as if it were ben's")
    accepted, refused = judged(pool("ann"))
    assert accepted == {}
    assert "committed by 'eve', the name belongs to ben" in refused["ben"]


def test_bytes_that_somebody_commits_again_stay_their_authors(pool):
    begin(pool)
    give(pool("ben"), "ben")
    pool("ann").commit({"other.txt": b"1"}, "meanwhile")
    eve = pool("eve")
    now = eve.snapshot()
    mine = [path for path in now.files if path.startswith("contributions/1/ben/")]
    contents = {path: eve.read(path, now.revision, 10**6) for path in mine}
    eve.commit(dict.fromkeys(mine), "remove")
    eve.commit(contents, "put back")
    assert set(eve.authors(mine, eve.snapshot().revision).values()) == {"eve"}
    assert judged(pool("ann")) == ({"ben": "ben"}, {})
    assert close(pool("ann")).round.owners == {"ben": "ben"}


def test_an_account_with_another_name_goes_on(pool, renames):
    begin(pool, quorum=1)
    give(pool("ben"), "ben")
    assert close(pool("ann")).round.owners == {"ben": "ben"}
    renames("ben", "benny")
    renamed = "benny" if isinstance(pool, MemoryPool) else "ben"  # the same token
    assert give(pool(renamed), "ben", 2)
    accepted, refused = judged(pool("ann"))
    assert (accepted, refused) == ({"ben": "benny"}, {})
    with pytest.raises(Exception, match="belongs to another account"):
        give(pool("eve"), "ben", 3)
    assert attribution.check_author(
        pool("ann"),
        "ben",
        "eve",
        repository.current(pool("ann")).manifest,
        {"ben": "ben"},
    )


def test_the_new_field_is_left_out_where_it_says_nothing():
    """So earlier versions read it, and what they signed stays signed."""
    federation = repository.initialise(MemoryExchange(None), _agreed(), FIRST, 0.0)
    plain = made(federation, "ben")
    assert b"account" not in plain.metadata.to_json()
    assert b"account" not in plain.metadata.signed_bytes()
    stated = plain.by("ben")
    assert json.loads(stated.metadata.to_json())["account"] == "ben"
    assert Contribution.from_json(stated.metadata.to_json()) == stated.metadata
    assert b'"ben"' in stated.metadata.signed_bytes()
    assert stated.by("eve") == stated
    assert plain.by("not an account!") == plain.by(None) == plain
    older = dataclasses.replace(plain.metadata, federation=None, start=None)
    older = dataclasses.replace(plain, metadata=older)
    assert (
        older.by("ben") == older
    )  # closers of version 0.1 refuse what they do not know


def _agreed():
    return sharing.manifest(FIRST)


def rewritten(pool, user, **changes):
    """Commit federation.json with some fields changed, as somebody who may write."""
    manifest = dataclasses.replace(repository.current(pool(user)).manifest, **changes)
    pool(user).commit({"federation.json": manifest.to_json() + b" "}, "mine now")


def manifest_owner(pool):
    exchange = pool("ben")
    return attribution.manifest_owner(exchange, exchange.snapshot())


def stranger(pool):
    exchange = pool("ben")
    return attribution.stranger(exchange, exchange.snapshot())


def vouch(pool, user, participant, account, seed=5):
    """A contribution and a voucher that says it is another account's."""
    exchange = pool(user)
    federation = repository.current(exchange)
    files = made(federation, participant, seed).files()
    digest = hashlib.sha256(files["contribution.json"]).hexdigest()
    record = attribution.Accepted(
        {participant: attribution.Voucher(account, 1, digest)}
    )
    folder = f"contributions/{federation.open_round}/{participant}"
    changes = {f"{folder}/{name}": content for name, content in files.items()}
    place = attribution.vouchers_path(federation.open_round)
    exchange.commit({**changes, place: record.to_json()}, "x")


def test_who_writes_federation_json_last_owns_nothing(pool):
    begin(pool, listed=True)
    assert (manifest_owner(pool), stranger(pool)) == ("ann", None)
    rewritten(pool, "eve")
    assert (manifest_owner(pool), stranger(pool)) == ("ann", "eve")
    vouch(pool, "eve", "ben", "ben")
    accepted, refused = judged(pool("ann"))
    assert (accepted, set(refused)) == ({}, {"ben"})
    rewritten(pool, "ann", quorum=2)
    assert (manifest_owner(pool), stranger(pool)) == ("ann", None)


def test_who_says_she_founded_it_and_did_not_owns_nothing(pool):
    """And then nobody does: the history and the file disagree."""
    begin(pool, listed=True)
    rewritten(pool, "eve", founder="eve")
    assert manifest_owner(pool) is None
    vouch(pool, "eve", "ben", "ben")
    assert judged(pool("ann"))[0] == {}


def test_deleting_it_and_putting_it_back_is_no_founding(pool):
    begin(pool, listed=True)
    give(pool("ben"), "ben")
    eve = pool("eve")
    content = eve.read("federation.json", eve.snapshot().revision, 10**6)
    eve.commit({"federation.json": None}, "away")
    eve.commit({"federation.json": content}, "back")
    assert manifest_owner(pool) == "ann"
    stated = json.loads(content)
    stated.pop("founder")
    eve.commit({"federation.json": json.dumps(stated).encode()}, "as if old")
    assert manifest_owner(pool) == "eve"  # nothing says otherwise but the runs' memory


def test_a_squashed_history_leaves_the_founder(pool):
    begin(pool)
    pool.squash("eve")
    assert (manifest_owner(pool), stranger(pool)) == ("ann", None)


def test_a_founder_with_another_name_stays_the_founder(pool, renames):
    begin(pool)
    renames("ann", "anna")
    assert manifest_owner(pool) == "anna"


def test_a_federation_of_an_earlier_version_is_its_first_authors(pool):
    begin(pool)
    rewritten(pool, "ann", founder=None, id=None)
    rewritten(pool, "eve", quorum=2)
    assert manifest_owner(pool) == "ann"


def test_tensors_that_somebody_else_commits_do_not_count(pool):
    """Also where contribution.json is the right account's own."""
    begin(pool, listed=True)
    give(pool("ben"), "ben")
    eve = pool("eve")
    path = "contributions/1/ben/adapters.safetensors"
    eve.commit({path: made(repository.current(eve), "ben", 9).files()[path[20:]]}, "x")
    accepted, refused = judged(pool("ann"))
    assert accepted == {}
    assert "committed by 'eve'" in refused["ben"]


def test_vouchers_hold_for_the_owners_files_only(pool):
    """Ann's voucher for ben's contribution does not cover what eve commits later."""
    begin(pool, listed=True)
    vouch(pool, "ann", "ben", "ben")
    assert judged(pool("ann")) == ({"ben": "ben"}, {})
    eve = pool("eve")
    now = eve.snapshot()
    path = "contributions/1/ben/contribution.json"
    content = eve.read(path, now.revision, 10**6)
    eve.commit({path: None}, "x")
    eve.commit({path: content}, "the same bytes, by eve")
    assert "committed by 'eve'" in judged(pool("ann"))[1]["ben"]


def test_vouchers_that_somebody_else_writes_change_nothing(pool):
    """Eve says that ann's own contribution is hers."""
    begin(pool, listed=True)
    give(pool("ann"), "ann")
    eve = pool("eve")
    path = "contributions/1/ann/contribution.json"
    content = eve.read(path, eve.snapshot().revision, 10**6)
    voucher = attribution.Voucher("eve", 1, hashlib.sha256(content).hexdigest())
    record = attribution.Accepted({"ann": voucher})
    eve.commit({attribution.vouchers_path(1): record.to_json()}, "mine")
    assert judged(pool("ann")) == ({"ann": "ann"}, {})


def test_vouchers_of_others_are_not_carried_on(pool):
    """What eve wrote into accepted.json is gone with the next proposal accepted."""
    begin(pool, listed=True)
    ann, eve = pool("ann"), pool("eve")
    record = attribution.Accepted({"ben": attribution.Voucher("ben", 1, "0" * 64)})
    eve.commit({attribution.vouchers_path(1): record.to_json()}, "mine")
    assert attribution.trusted_vouchers(ann, ann.snapshot(), 1).vouchers == {}
    assert attribution.read_vouchers(ann, ann.snapshot(), 1).vouchers == record.vouchers
    ann.commit({attribution.vouchers_path(1): record.to_json() + b" "}, "ann's own")
    assert (
        attribution.trusted_vouchers(ann, ann.snapshot(), 1).vouchers == record.vouchers
    )


def test_what_was_damaged_on_its_way_is_nobodys_fault():
    """A review fails and is tried again; it does not refuse the contribution."""

    class Noisy(MemoryExchange):
        def read(self, path, revision, max_bytes):
            content = super().read(path, revision, max_bytes)
            return content[:-1] + b"!" if path.endswith(self.damaged) else content

    exchange = MemoryExchange("ann")
    repository.initialise(exchange, _agreed(), FIRST, 0.0)
    give(exchange, "ben")
    noisy, federation = Noisy("ann", exchange.store), repository.current(exchange)
    for file in ("ben/adapters.safetensors", "ben/contribution.json"):
        noisy.damaged = file
        with (
            pytest.raises(Unreachable, match="was damaged on its way"),
            closing.review(noisy, federation),
        ):
            pass
