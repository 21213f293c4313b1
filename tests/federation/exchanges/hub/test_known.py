"""Requests do not grow with the history, nor with the number of looks."""

import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.exchanges.base import File, blob_of
from comigs_mlx.federation.exchanges.hub.known import CONTENTS, SMALL, Known
from comigs_mlx.federation.rounds import closing, pull_requests, repository, submit

FIRST = sharing.tensors(blocks=1)


def contribution(exchange, name, seed=1):
    federation = repository.current(exchange)
    values = sharing.moved(FIRST, seed)
    given = {"participant": name, "round": federation.open_round}
    made = sharing.contributed(values, FIRST, federation.manifest, **given)
    return federation, made


def accepted(hub, on_hub, repo, commits):
    """Requests of an owner who accepts two proposals after so many commits."""
    owner = on_hub("ann", repo=repo)
    agreed = sharing.manifest(FIRST, quorum=9)
    repository.initialise(owner, agreed, FIRST, 0.0)
    for number in range(commits):
        hub.store.repos[repo].commit("main", "ann", f"{number}", "", {})
    for seed, user in enumerate(("ben", "eve")):
        proposer = on_hub(user, repo=repo)
        submit.propose(proposer, *contribution(proposer, user, seed))
    hub.requests.clear()
    made = pull_requests.accept(on_hub("ann", repo=repo), lambda line: None)
    assert [verdict.reason for verdict in made] == [None, None]
    return len(hub.requests)


def test_a_long_history_costs_no_more_requests(hub, on_hub, repo):
    short = accepted(hub, on_hub, f"{repo}-short", 60)
    long = accepted(hub, on_hub, f"{repo}-long", 1500)
    assert short <= long + 2
    assert long <= short + 2
    assert long < 60


def test_looking_again_reads_no_contribution_again(hub, on_hub, repo):
    ann = on_hub("ann")
    repository.initialise(ann, sharing.manifest(FIRST, quorum=3), FIRST, 0.0)
    for name in ("ann", "ben"):
        submit.contribute(ann, *contribution(ann, name))

    def looked():
        hub.requests.clear()
        federation = repository.current(ann)
        with closing.review(ann, federation) as found:
            assert len(found.accepted) == 2
        return [r.line for r in hub.requests if r.line.endswith("/contribution.json")]

    assert len(looked()) <= 2
    assert looked() == []


@pytest.mark.parametrize("size", [10, SMALL, SMALL + 1])
def test_small_contents_are_remembered_by_hash(size):
    known, asked = Known(), []
    content = b"x" * size
    file = File(size, None, blob_of(content))

    def ask():
        asked.append(size)
        return content

    assert known.content(file, ask) == known.content(file, ask) == content
    assert len(asked) == (1 if size <= SMALL else 2)


def test_without_a_hash_nothing_is_remembered_and_little_is_kept():
    known, asked = Known(), []
    for _ in range(2):
        known.content(File(3), lambda: asked.append(1) or b"abc")
    assert len(asked) == 2
    for number in range(CONTENTS + 5):
        content = b"%d" % number
        made = File(len(content), None, blob_of(content))
        known.content(made, lambda content=content: content)
    assert len(known._contents) == CONTENTS
