"""A fit pull request counts for who made it; the rest is named and left alone."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Moved, NotAllowed, Unreachable
from comigs_mlx.federation.exchanges.memory import Fault, MemoryExchange, MemoryStore
from comigs_mlx.federation.formats.manifest import Member
from comigs_mlx.federation.rounds import attribution, repository
from comigs_mlx.federation.rounds.closing import close_if_due, review
from comigs_mlx.federation.rounds.pull_requests import THANKS, accept, verdicts
from comigs_mlx.federation.rounds.submit import (
    check_participant,
    contribute,
    contribution_changes,
    propose,
)
from tests.hub_store import Stored

FIRST = sharing.tensors()
NOW = 1_700_000_000.0


@pytest.fixture(params=["memory", "hub"])
def account(request):
    """(user) -> the repository as ann, who may write, or somebody who may not."""
    if request.param == "hub":
        return request.getfixturevalue("on_hub")
    store = MemoryStore(writers={"ann"})
    return lambda user: MemoryExchange(user, store)


@pytest.fixture
def ann(account):
    return account("ann")


@pytest.fixture
def ben(account):
    return account("ben")


def begin(ann, **others):
    agreed = sharing.manifest(FIRST, **{"encoding": "fp32", "quorum": 2, **others})
    return repository.initialise(ann, agreed, FIRST, NOW)


def made(exchange, name, seed, **others):
    federation = repository.current(exchange)
    values, opened = sharing.moved(FIRST, seed), federation.open_round
    given = {"participant": name, "round": opened, **others}
    return sharing.contributed(values, FIRST, federation.manifest, **given)


def offer(exchange, name, seed):
    return propose(exchange, repository.current(exchange), made(exchange, name, seed))


def files(exchange, name, seed, **others):
    """Path -> content of a contribution to the open round."""
    federation = repository.current(exchange)
    return dict(contribution_changes(federation, made(exchange, name, seed, **others)))


def judged(exchange):
    with review(exchange, repository.current(exchange)) as found:
        return [source.name for source in found.accepted], found.refused


def told(found):
    return {v.proposal.number: v.reason for v in found}


def quiet(line):
    raise AssertionError(line)


def test_an_accepted_proposal_counts_for_its_author(ann, ben, account):
    begin(ann, quorum=1)
    with pytest.raises(NotAllowed, match="--create-pr"):
        contribute(ben, repository.current(ben), made(ben, "ben", 1))
    url, new = offer(ben, "ben", 1)
    assert new
    (fit,) = verdicts(ben, repository.current(ben))
    assert fit.as_dict() == {
        "number": 1,
        "author": "ben",
        "participant": "ben",
        "accepted": True,
        "reason": None,
        "url": url,
    }
    assert judged(ann) == ([], {})
    assert told(accept(ann, quiet)) == {1: None}
    assert ann.proposals() == []
    assert judged(ann) == (["ben"], {})
    where = "contributions/1/ben/contribution.json"
    revision = ann.snapshot().revision
    assert ann.authors([where], revision) == {where: "ann"}
    assert attribution.accounts(ann, ann.snapshot(), [where]) == {where: "ben"}
    closed = close_if_due(ann, repository.current(ann), NOW)
    assert closed.round.contributors == ("ben",)
    assert closed.round.owners == {"ben": "ben"}
    pulled, wanted = repository.pull(ben, closed), sharing.moved(FIRST, 1)
    assert all(np.array_equal(pulled[name], wanted[name]) for name in wanted)
    check_participant(ben, closed, "ben")
    with pytest.raises(FederationError, match="belongs to another account than eve"):
        check_participant(account("eve"), closed, "ben")


def test_the_same_is_proposed_once(ann, ben):
    begin(ann)
    first = offer(ben, "ben", 1)
    assert offer(ben, "ben", 1) == (first[0], False)
    assert len(ann.proposals()) == 1
    newer = offer(ben, "ben", 2)
    assert newer[1]
    assert len(ann.proposals()) == 2
    assert told(accept(ann, quiet)) == {1: None, 2: None}
    last = made(ben, "ben", 2).by("ben").files()
    revision = ann.snapshot().revision
    for file, content in last.items():
        path = f"contributions/1/ben/{file}"
        assert ann.read(path, revision, len(content)) == content
    assert judged(ann) == (["ben"], {})
    assert not offer(ben, "ben", 2)[1]
    assert ann.proposals() == []


def hostile(exchange):
    """Changes and the reason they are refused for."""
    good = files(exchange, "eve", 5)
    other = files(exchange, "ben", 6)
    stray = {"contributions/1/eve/weights.bin": b"pickle"}
    manifest = json.loads(exchange.read("federation.json", head(exchange), 10**6))
    nobody = json.dumps({**manifest, "quorum": 1}).encode()
    late = {path.replace("/1/", "/7/", 1): content for path, content in good.items()}
    wrong = files(exchange, "eve", 5, round=3)
    wrong = {path.replace("/3/", "/1/", 1): content for path, content in wrong.items()}
    return [
        ({**good, "federation.json": nobody}, "it changes 'federation.json', which is"),
        (
            {**good, "adapters.safetensors": b"mine"},
            "it changes 'adapters.safetensors'",
        ),
        ({**good, "round.json": None}, "it changes 'round.json', which is no part"),
        ({"contributions/1/accepted.json": b"{}"}, "it changes 'contributions/1/acc"),
        ({"contributions/1/Eve/x": b""}, "it changes 'contributions/1/Eve/x'"),
        ({**good, **other}, "it changes more than one contribution: 1/ben and 1/eve"),
        (other, "committed by 'eve', the name belongs to ben"),
        ({**good, **stray}, "unknown file 'weights.bin'"),
        (late, "it is for round 7, round 1 is open"),
        (dict(list(good.items())[:1]), "is missing"),
        (wrong, "round 3, expected 1"),
        (files(exchange, "mal", 5), "not among the participants"),
    ]


def head(exchange):
    return exchange.snapshot().revision


def test_hostile_proposals_are_named_and_change_nothing(ann, ben, account):
    eve = account("eve")
    members = {name: Member(name) for name in ("ann", "ben", "eve")}
    begin(ann, participants=members)
    wanted = {}
    for number, (changes, reason) in enumerate(hostile(eve), 1):
        eve.propose(changes, "a gift")
        wanted[number] = reason
    number = len(wanted) + 1
    offer(ben, "ben", 1)
    before = ann.snapshot()
    seen = told(verdicts(ann, repository.current(ann)))
    assert ann.snapshot() == before
    found = told(accept(ann, quiet))
    assert found == seen
    assert found.pop(number) is None
    assert found.keys() == wanted.keys()
    for one, reason in wanted.items():
        assert reason in found[one]
    assert [p.number for p in ann.proposals()] == [*wanted]
    after = ann.snapshot()
    new = {f"contributions/1/ben/{file}" for file in made(ben, "ben", 1).files()}
    assert after.files.keys() - before.files.keys() == {
        *new,
        attribution.vouchers_path(1),
    }
    assert {path: after.files[path] for path in before.files} == before.files
    assert judged(ann) == (["ben"], {})


def test_nothing_that_changes_after_the_check_comes_in(ann, ben, request):
    """The author changes the proposal in the very moment before the commit."""
    begin(ann)
    offer(ben, "ben", 1)
    wanted, commit = made(ben, "ben", 1).by("ben").files(), ann.commit
    evil = {"federation.json": b"{}", "contributions/1/ben/adapters.safetensors": b"x"}

    def later(*given):
        if isinstance(ann, MemoryExchange):
            offer = ann.store.offers[1]
            changed = {**offer.commit.files, **evil}
            offer.commit = dataclasses.replace(offer.commit, files=changed)
        else:
            repo = request.getfixturevalue("hub").store.repos[ann.repo]
            changes = {path: Stored(content, False) for path, content in evil.items()}
            repo.commit("refs/pr/1", "ben", "more", "", changes)
        return commit(*given)

    ann.commit = later
    before = ann.snapshot()
    assert told(accept(ann, quiet)) == {1: None}
    after = ann.snapshot()
    assert {path: after.files[path] for path in before.files} == before.files
    for file, content in wanted.items():
        path = f"contributions/1/ben/{file}"
        assert ann.read(path, after.revision, len(content)) == content
    assert judged(ann) == (["ben"], {})


def test_only_the_author_may_have_committed_to_a_proposal(on_hub, hub, repo):
    ann, ben = on_hub("ann"), on_hub("ben")
    begin(ann)
    offer(ben, "ben", 1)
    slipped = {
        path: Stored(content, path.endswith(".safetensors"))
        for path, content in files(ben, "ben", 2).items()
    }
    hub.store.repos[repo].commit("refs/pr/1", "eve", "more", "", slipped)
    reason = "committed by 'eve', proposed by ben"
    assert told(accept(ann, quiet)) == {1: reason}


def test_a_proposal_upon_an_older_state(ann, ben):
    """Others have contributed since; that it lacks their files means nothing."""
    begin(ann, quorum=3)
    offer(ben, "ben", 1)
    contribute(ann, repository.current(ann), made(ann, "ann", 2))
    assert told(accept(ann, quiet)) == {1: None}
    assert judged(ann) == (["ann", "ben"], {})
    offer(ben, "ben", 3)
    close_if_due(ann, repository.current(ann), NOW)  # not due
    contribute(ann, repository.current(ann), made(ann, "cid", 4))
    close_if_due(ann, repository.current(ann), NOW)
    assert told(accept(ann, quiet)) == {2: "it is for round 1, round 2 is open"}


def test_killed_before_the_proposal_is_closed():
    store = MemoryStore(writers={"ann"})
    ann, ben = MemoryExchange("ann", store), MemoryExchange("ben", store)
    begin(ann, quorum=1)
    offer(ben, "ben", 1)
    store.faults.append(Fault("dismiss", 1, Unreachable("gone")))
    lines = []
    assert told(accept(ann, lines.append)) == {1: None}
    assert lines == ["proposal 1 is accepted, but still open: gone"]
    assert len(ann.proposals()) == 1
    commits = len(store.history)
    assert told(verdicts(ann, repository.current(ann))) == {1: None}
    close_if_due(ann, repository.current(ann), NOW)  # it is found in a closed round too
    assert told(accept(ann, quiet)) == {1: None}
    assert ann.proposals() == []
    assert len(store.history) == commits + 1


def test_an_answer_that_is_lost_and_a_race():
    store = MemoryStore(writers={"ann"})
    ann, ben = MemoryExchange("ann", store), MemoryExchange("ben", store)
    begin(ann)
    offer(ben, "ben", 1)
    store.faults.append(Fault("commit", 1, Moved("somebody else")))
    store.faults.append(Fault("commit", 2, Unreachable("lost"), after=True))
    assert told(accept(ann, quiet)) == {1: None}
    assert [commit.message for commit in store.history[2:]] == [
        "Accept proposal 1 for round 1: ben"
    ]


def test_only_who_wrote_the_manifest_accepts(account, request):
    ann, ben = account("ann"), account("ben")
    begin(ann)
    offer(ben, "ben", 1)
    eve = writer(account, request, "eve")
    before = ann.snapshot()
    reason = "waits for ann, who founded the federation"
    assert told(accept(eve, quiet)) == {1: reason}
    assert ann.snapshot() == before
    assert len(ann.proposals()) == 1


def writer(account, request, user):
    """The repository as a user who may write to it, as ann may."""
    exchange = account(user)
    if isinstance(exchange, MemoryExchange):
        exchange.store.writers = {*exchange.store.writers, user}
    else:
        repo = request.getfixturevalue("hub").store.repos[exchange.repo]
        repo.rights[user] = "write"
    return exchange


def test_vouchers_of_others_are_not_believed(account, request):
    ann, ben = account("ann"), account("ben")
    members = {name: Member(name) for name in ("ann", "ben", "eve")}
    begin(ann, participants=members)
    offer(ben, "ben", 1)
    accept(ann, quiet)
    record = attribution.vouchers_path(1)
    believed = ann.read(record, head(ann), 10**6)
    eve = writer(account, request, "eve")
    eve.commit(files(eve, "ben", 2), "forged")
    reason = "committed by 'eve', the name belongs to ben"
    assert judged(ann) == ([], {"ben": reason})
    # hers says it is his; it is not hers to say
    content = eve.read("contributions/1/ben/contribution.json", head(eve), 10**6)
    forged = json.loads(believed)
    forged["vouchers"]["ben"]["sha256"] = hashlib.sha256(content).hexdigest()
    eve.commit({record: json.dumps(forged).encode()}, "forged")
    assert judged(ann) == ([], {"ben": reason})
    # ann's holds for what she has seen, not for what she commits by another way
    ann.commit({record: believed, **files(ann, "ben", 3)}, "by hand")
    assert judged(ann)[1] == {"ben": "committed by 'ann', the name belongs to ben"}
    for damaged in (b"", b"[]", b"{}", believed[:-9]):
        ann.commit({record: damaged}, "damaged")
        assert "ben" in judged(ann)[1]


def test_a_name_in_this_round_is_taken(ann, ben, account):
    begin(ann, quorum=3)
    eve = account("eve")
    offer(ben, "mac", 1)
    eve.propose(files(eve, "mac", 2), "mine too")
    reason = "committed by 'eve', the name belongs to ben"
    assert told(accept(ann, quiet)) == {1: None, 2: reason}
    with pytest.raises(FederationError, match="belongs to another account than eve"):
        offer(eve, "mac", 3)


def test_a_closed_proposal_says_why(on_hub, hub, repo):
    ann, ben = on_hub("ann"), on_hub("ben")
    begin(ann)
    offer(ben, "ben", 1)
    accept(ann, quiet)
    pull = hub.store.repos[repo].pulls[1]
    assert (pull.status, pull.comment) == ("closed", THANKS)


def test_owners_hold_across_rounds(on_hub, hub, repo):
    """Two accounts with the right to write, in a federation for everybody."""
    ann, ben = on_hub("ann"), on_hub("ben")
    begin(ann, quorum=1)
    hub.store.repos[repo].rights["ben"] = "write"
    contribute(ann, repository.current(ann), made(ann, "mac", 1))
    close_if_due(ann, repository.current(ann), NOW)
    contribute(ben, repository.current(ben), made(ben, "imac", 2))
    close_if_due(ann, repository.current(ann), NOW)
    now = repository.current(ben)
    assert now.round.owners == {"mac": "ann", "imac": "ben"}
    # writing over what counted long ago takes no name
    old = {
        f"contributions/1/mac/{f}": c for f, c in made(ben, "mac", 3).files().items()
    }
    ben.commit(old, "mine")
    for thief, name in ((ben, "mac"), (ann, "imac")):
        with pytest.raises(FederationError, match="belongs to another account"):
            contribute(thief, repository.current(thief), made(thief, name, 4))
    ben.commit(files(ben, "mac", 5), "forged")
    assert judged(ann) == ([], {"mac": "committed by 'ben', the name belongs to ann"})
    assert close_if_due(ann, repository.current(ann), NOW) is None
    contribute(ann, repository.current(ann), made(ann, "mac", 6))
    assert judged(ann) == (["mac"], {})


@pytest.fixture
def alone():
    """A federation in memory that ann founded, one contribution closes its rounds."""
    exchange = MemoryExchange("ann")
    begin(exchange, quorum=1)
    return exchange


def before_its_commit(exchange, action):
    """An exchange of the same account that is overtaken by `action`, once."""

    class Overtaken(MemoryExchange):
        def commit(self, *given):
            if (due := pending) and due.pop():
                action()
            return super().commit(*given)

    pending = [True]
    return Overtaken(exchange.name, exchange.store)


def test_a_round_that_closes_before_the_commit_takes_nothing_more(alone):
    """The pull request was fit for round 1; in round 2 it is not, and stays out."""
    eve = MemoryExchange("eve", alone.store)
    offer(eve, "eve", 1)

    def close():
        contribute(alone, repository.current(alone), made(alone, "ann", 2))
        assert close_if_due(alone, repository.current(alone), 1.0)

    (verdict,) = accept(before_its_commit(alone, close), print)
    assert verdict.reason == "it is for round 1, round 2 is open"
    assert not [p for p in alone.snapshot().files if "/eve/" in p or "accepted" in p]
    assert len(alone.proposals()) == 1


def test_a_list_that_changes_before_the_commit_is_looked_at(alone):
    """The owner takes the name off the list in the very moment."""
    eve = MemoryExchange("eve", alone.store)
    offer(eve, "eve", 1)

    def shut_out():
        listed = {"ann": Member("ann", None)}
        only = sharing.manifest(FIRST, quorum=1, participants=listed)
        alone.commit({"federation.json": only.to_json()}, "only ann")

    (verdict,) = accept(before_its_commit(alone, shut_out), print)
    assert verdict.reason is not None
    assert "not among the participants" in verdict.reason
    assert not [p for p in alone.snapshot().files if "/eve/" in p]
