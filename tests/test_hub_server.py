"""The loopback Hub does what the real one does, as the real client sees it."""

import threading
import time

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, get_session, hf_hub_url
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from comigs_mlx.federation.exchanges.hub.client import library
from tests.hub_server import Fault, Server

REPO, BIG = "ann/pool", b"weights" * 1000


@pytest.fixture(scope="module")
def _running():
    with Server() as server:
        yield server


@pytest.fixture
def hub(_running):
    _running.usual()
    _running.store.__init__(dict(_running.store.users))
    _running.store.create(REPO, "ann")
    return _running


@pytest.fixture
def api(hub):
    library()  # without xet, which this Hub does not speak
    return lambda user="ann": HfApi(hub.url, token=f"hf_{user}")


def commit(api, path="a.txt", content=b"1", **options):
    made = [CommitOperationAdd(path, content)]
    return api.create_commit(REPO, made, commit_message=f"add {path}", **options).oid


def head(api):
    return api.model_info(REPO).sha


def titles(api, revision="main"):
    return [found.title for found in api.list_repo_commits(REPO, revision=revision)]


def status(call):
    with pytest.raises(HfHubHTTPError) as error:
        call()
    return error.value.response.status_code


def test_one_commit_at_a_time(hub, api):
    hub.commit_seconds = 0.5
    first = threading.Thread(target=lambda: commit(api()))
    first.start()
    time.sleep(0.2)
    with pytest.raises(HfHubHTTPError, match="Another commit operation") as error:
        commit(api(), "b.txt")
    assert error.value.response.status_code == 409
    first.join()
    assert titles(api()) == ["add a.txt", "initial commit"]


@pytest.mark.parametrize(
    "kind", ["status", "after", "reset", "reset-after", "cut", "shorter", "hang"]
)
def test_faults_by_chance_are_drawn_from_a_seed(hub, kind):
    def spoilt():
        hub.random.seed(5)
        hub.faults[:] = [Fault("GET", kind, 503, times=10**6, chance=0.3, seconds=0)]
        return [broken(hub.url) for _ in range(20)]

    first = spoilt()
    assert 2 <= sum(first) <= 12
    assert spoilt() == first


def broken(url):
    try:
        with httpx2.Client(timeout=2, verify=False) as client:  # loads no authorities
            answer = client.get(f"{url}/api/models/{REPO}")
            return answer.status_code != 200 or "sha" not in answer.json()
    except (httpx2.HTTPError, ValueError):
        return True


def test_wrong_bytes_of_the_right_number(hub, api):
    commit(api(), content=b"hello")
    hub.faults.append(Fault("/resolve/", "wrong"))
    url = hf_hub_url(REPO, "a.txt", endpoint=hub.url)
    got = [get_session().get(url).content for _ in range(2)]
    assert [len(content) for content in got] == [5, 5]
    assert got[0] != got[1] == b"hello"


def test_the_newest_commit_lags(hub, api):
    before = head(api())
    made = commit(api())
    hub.lag = 0.4
    assert head(api()) == before
    time.sleep(0.5)
    assert head(api()) == made


def test_a_commit_upon_a_state_that_was_read_too_late(hub, api):
    before = head(api())
    commit(api())
    assert status(lambda: commit(api(), "b", parent_commit=before)) == 412


def test_downloads_come_from_another_host_which_sees_no_token(hub, api):
    made = commit(api(), "a.safetensors", BIG)
    token = {"authorization": "Bearer hf_ann"}
    with Server(store=hub.store, name="localhost") as downloads:
        hub.downloads = downloads
        url = hf_hub_url(REPO, "a.safetensors", endpoint=hub.url)
        got = get_session().get(url, headers=token)
        (there,) = downloads.requests
        direct = f"{downloads.url}/cdn/{REPO}/{made}/a.safetensors"
        assert get_session().get(direct, headers=token).status_code == 400
    assert got.content == BIG
    assert str(got.url) == direct
    here = [r.headers for r in hub.requests if "/resolve/" in r.line]
    assert [h["authorization"] for h in here] == ["Bearer hf_ann"]
    assert "authorization" not in {name.lower() for name in there.headers}


def test_a_renamed_repository_is_found_under_its_old_name(hub, api):
    hub.store.rename(REPO, "ann/lake")
    made = commit(api(), "a.safetensors", BIG)
    assert hub.store.repos["ann/lake"].revision("main").oid == made
    assert head(api()) == made


def test_a_squashed_history(hub, api):
    for number in range(3):
        commit(api("ann"), content=b"%d" % number)
    old = head(api())
    api().super_squash_history(REPO, commit_message="squashed")
    assert titles(api()) == ["squashed"]
    (found,) = api().get_paths_info(REPO, ["a.txt"], expand=True)
    assert (found.last_commit.oid, found.size) == (head(api()), 1)
    assert old != head(api())


def test_a_draft_is_filled_opened_and_merged(hub, api):
    number = api("eve").create_pull_request(REPO, "eve's").num
    commit(api("eve"), "e.txt", b"e", revision=f"refs/pr/{number}")
    assert status(lambda: commit(api("ben"), revision=f"refs/pr/{number}")) == 403
    (found,) = api().get_repo_discussions(REPO)
    assert (found.status, found.title) == ("draft", "eve's")
    assert status(lambda: api().merge_pull_request(REPO, number)) == 400
    assert list(api().get_repo_discussions(REPO, discussion_status="open")) == []
    api("eve").change_discussion_status(REPO, number, "open")
    assert status(lambda: api("ben").merge_pull_request(REPO, number)) == 403
    api().merge_pull_request(REPO, number)
    assert titles(api())[0] == "eve's"
    assert [f.path for f in api().get_paths_info(REPO, ["e.txt"])] == ["e.txt"]


def test_objects_go_with_their_repository(hub, api):
    def uploads():
        return sum(request.line.startswith("PUT") for request in hub.requests)

    commit(api(), "a.safetensors", BIG)
    api("eve").create_repo("eve/pool")
    made = [CommitOperationAdd("b.safetensors", BIG)]
    api("eve").create_commit("eve/pool", made, commit_message="the same bytes")
    assert uploads() == 2
    api().delete_repo(REPO)
    with pytest.raises(RepositoryNotFoundError):
        head(api())
    api().create_repo(REPO)
    commit(api(), "a.safetensors", BIG)
    assert uploads() == 3
    api().delete_repo(REPO)
    api().create_repo(REPO)
    hub.believes_lfs = True
    with pytest.raises(BadRequestError, match="LFS pointer pointed to a file that"):
        commit(api(), "a.safetensors", BIG)


def test_nobody_uploads_without_an_account(hub):
    body = {"operation": "upload", "transfers": ["basic"], "objects": []}
    url = f"{hub.url}/{REPO}.git/info/lfs/objects/batch"
    assert get_session().post(url, json=body).status_code == 401


def test_pages_are_those_of_the_hub(hub, api):
    repo = hub.store.repos[REPO]
    for number in range(60):
        repo.commit("main", "ann", f"{number}", "", {})
    assert len(api().list_repo_commits(REPO)) == 61
    assert sum("/commits/" in request.line for request in hub.requests) == 2


def test_a_commit_pushed_with_git_from_an_unknown_address(hub):
    hub.store.repos[REPO].commit("main", None, "by git", "", {})
    answer = get_session().get(f"{hub.url}/api/models/{REPO}/commits/main").json()
    assert answer[0]["authors"] == [{}]


def test_an_older_state_is_put_back(hub, api):
    first = head(api())
    commit(api())
    hub.store.repos[REPO].put("main", first)
    assert head(api()) == first


def test_a_renamed_account(hub, api):
    commit(api("ann"))
    hub.store.rename_account("ann", "anna")
    answer = get_session().get(f"{hub.url}/api/models/{REPO}/commits/main").json()
    hub.store.rename_account("anna", "ann")
    hub.store.accounts = {"ann": "anna"}
    hub.store.users["hf_anna"] = "anna"
    assert answer[0]["authors"] == [{"user": "anna"}]
    assert api().get_user_overview("ann").username == "anna"
    del hub.store.users["hf_anna"]


def test_a_revision_that_is_not_there(hub, api):
    with pytest.raises(RevisionNotFoundError):
        api().model_info(REPO, revision="f" * 40)
