"""The sync command: over a folder and over the Hub, and what leaves the device."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import tests.hub_server as hub_server
import tests.tiny as tiny
from comigs_mlx import evaluate, sync, train
from tests.federation.conftest import TOKENS, reach

NAMES = iter(range(10**6))


@pytest.fixture(scope="module")
def hub():
    with hub_server.Server() as server:
        yield server


@pytest.fixture(params=["folder", "hub"])
def uri(request, tmp_path, monkeypatch, hub):
    """A federation's URI, with the command line's way to the loopback Hub open."""
    if request.param == "folder":
        return str(tmp_path / "pool")
    reach(monkeypatch, hub.url, TOKENS["ann"], patience=10)
    return f"hf://ann/sync-{next(NAMES)}"


def files(folder):
    """Path -> content of every visible file."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in found
        if not any(part.startswith(".") for part in p.relative_to(folder).parts)
    }


def generalist(run):
    return load_file(run / "generalist" / "adapters.safetensors")


def mean(*runs):
    found = [generalist(run) for run in runs]
    return {n: np.mean([f[n] for f in found], axis=0) for n in found[0]}


def close_to(found, wanted, atol=2e-3):
    return found.keys() == wanted.keys() and all(
        np.allclose(found[name], wanted[name], atol=atol) for name in wanted
    )


def test_two_runs_share_a_generalist(uri, run, do, cli):
    ann, ben = run("ann"), run("ben", seed=1)
    do("init", federation=uri, run=ann, quorum=2, encoding="fp32")
    assert do("pull", federation=uri, run=ben)["changed"]
    assert close_to(generalist(ben), generalist(ann))
    for who, seed in ((ann, 8), (ben, 10)):
        train.main(tiny.flags(run=who, resume=True, steps=seed))
    wanted = mean(ann, ben)
    assert not close_to(generalist(ben), generalist(ann), atol=1e-6)
    first = do("push", federation=uri, run=ann, participant="ann")
    assert not first["closed"]
    assert first["contribution.json"]["counters"] == {"steps": 2, "tokens": 64}
    now = do("status", federation=uri)
    assert now["contributions"]["ann"]["accepted"]
    assert (now["open_round"], now["due"]) == (1, False)
    assert do("push", federation=uri, run=ben, participant="ben")["closed"]
    assert do("status", federation=uri)["round"]["contributors"] == ["ann", "ben"]
    for who in (ann, ben):
        assert do("pull", federation=uri, run=who)["changed"]
        found = generalist(who)
        assert all(np.allclose(found[n], wanted[n], atol=1e-7) for n in wanted)
        assert cli(evaluate.main, run=who, json=True)[0] == 0
    assert not do("pull", federation=uri, run=ben)["changed"]


def test_pull_changes_the_generalist_and_nothing_else(run, do, tmp_path):
    ann, ben, uri = run("ann"), run("ben", seed=1), tmp_path / "pool"
    do("init", federation=uri, run=ann)
    before = files(ben)
    do("pull", federation=uri, run=ben)
    after = files(ben)
    changed = {path for path in after if after[path] != before.get(path)}
    newest = sorted((ben / "state").glob("step-*"))[-1].relative_to(ben)
    assert changed == {
        "federation.json",
        "generalist/adapters.safetensors",
        f"{newest}/values.safetensors",
        "state/rounds/own-0000001.safetensors",  # what it had learnt itself
        f"{newest}/trainer_state.json",
        "state/rounds/round-0000000.safetensors",  # to go back to
    }
    assert not before.keys() - after.keys()
    values = load_file(ben / newest / "values.safetensors")
    old = tmp_path / "old.safetensors"
    old.write_bytes(before[f"{newest}/values.safetensors"])
    for path, array in load_file(old).items():
        parts = path.split(".")
        if "generalist" not in parts:
            assert np.array_equal(values[path], array)
            continue
        name = ".".join(part for part in parts if part != "generalist")
        wanted = generalist(ann)[name]
        assert np.array_equal(values[path].reshape(wanted.shape), wanted)


def test_dry_run_lists_everything_and_sends_nothing(uri, run, do, cli, hub):
    ann = run("ann")
    do("init", federation=uri, run=ann, quorum=2)
    before, own = do("status", federation=uri), files(ann)
    hub.requests.clear()
    listed = do("push", federation=uri, run=ann, participant="ann", dry_run=True)
    assert not [sent for sent in hub.requests if "commit" in sent.line]
    assert do("status", federation=uri) == before
    assert files(ann) == own
    sent = do("push", federation=uri, run=ann, participant="ann")
    assert {key: sent[key] for key in listed} == listed
    tensors = generalist(ann)
    sizes = {name: array.size * 2 for name, array in tensors.items()}  # fp16
    assert listed["tensors"] == {"adapters.safetensors": sizes}
    assert do("status", federation=uri)["contributions"]["ann"]["bytes"] == sum(
        listed["files"].values()
    )


def test_int8_carries_its_residual_and_repeats_itself(run, do, tmp_path):
    ann, uri = run("ann"), tmp_path / "pool"
    do("init", federation=uri, run=ann, quorum=2, encoding="int8")
    train.main(tiny.flags(run=ann, resume=True, steps=8))
    first = do("push", federation=uri, run=ann, participant="ann")
    before = files(uri)
    other_spelling = f"{uri}/../{uri.name}"
    again = do("push", federation=other_spelling, run=ann)
    assert first.pop("bytes_sent") == sum(first["files"].values())
    assert again.pop("bytes_sent") == 0
    assert first.pop("bytes_received") < again.pop("bytes_received")
    assert first == again
    assert files(uri) == before
    assert (ann / "state" / "residual.safetensors").is_file()
    train.main(tiny.flags(run=ann, resume=True, steps=10))


def test_init_from_a_model(uri, do, run, tiny_folder):
    model = tiny_folder()
    agreed = do(
        "init", federation=uri, model=model, rank=2, allow="ann=ann,ben", deadline=60
    )
    assert agreed["base_model"]["id"] == model.name
    assert agreed["participants"]["ann"]["account"] == "ann"
    assert do("pull", federation=uri, run=run())["changed"]


def test_bad_input_is_one_line_and_exit_2(cli, run, tmp_path, do):
    mine, uri = run(), tmp_path / "pool"
    before = files(mine)

    def wrong(*argv, **options):
        code, out, err = cli(sync.main, *argv, **options)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
        return err

    assert "'dance' is none of init, status" in wrong("dance")
    assert "--federation URI is missing" in wrong("status")
    assert "there is no folder" in wrong("pull", federation=uri, run=mine)
    assert "either --run DIR or --model" in wrong("init", federation=uri)
    assert not uri.exists()
    do("init", federation=uri, run=run("other", rank=4))
    assert "rank is 2, the federation's 4" in wrong("pull", federation=uri, run=mine)
    push = {"federation": uri, "run": mine}
    assert "--participant NAME is missing" in wrong("push", **push)
    assert "does not fit" in wrong("push", **push, participant="ann")
    shutil.rmtree(uri)
    do("init", federation=uri, run=run("third", seed=1))
    text = wrong("push", **push, participant="ann")
    assert "does not have the generalist of round 0" in text
    assert files(mine) == before


def test_help(cli):
    code, out, _ = cli(sync.main, "--help")
    assert code == 0
    assert all(action in out for action in sync.ACTIONS)


def test_only_generalists_reach_the_hub(hub, monkeypatch, run, do, text_folder):
    """Everything the server received, searched for pieces of everything private."""
    reach(monkeypatch, hub.url, TOKENS["ann"])
    uri, ann = f"hf://ann/sync-{next(NAMES)}", run("ann")
    hub.requests.clear()
    do("init", federation=uri, run=ann)
    train.main(tiny.flags(run=ann, resume=True, steps=8))
    do("push", federation=uri, run=ann, participant="ann")
    do("pull", federation=uri, run=ann)
    received = b"".join(sent.body for sent in hub.requests)
    assert generalist_bytes(ann) in received  # the search does find what was sent
    for name, piece in private(ann, text_folder):
        assert piece not in received, name


def generalist_bytes(run):
    pulled = generalist(run)
    return max(pulled.values(), key=lambda array: array.size).tobytes()


def private(run, text):
    """Pieces of 16 bytes and more of all that must stay."""
    for file in text.glob("*.txt"):
        for line in filter(None, file.read_bytes().splitlines()):
            yield file.name, line[:16] if len(line) > 16 else line
    kept = [
        run / "specialist" / "experts.safetensors",
        run / "router/router.safetensors",
    ]
    for file in [*kept, *run.glob("state/*/optimizer_state.safetensors")]:
        for name, array in load_file(file).items():
            if array.size >= 4 and array.any():
                yield f"{file.name} {name}", array.tobytes()[:64]
    yield "path", str(run).encode()
    yield "metrics", b"train_loss"


def test_several_generalists(run, do, tmp_path):
    ann, ben, uri = run("ann", generalists=2), run("ben", generalists=2, seed=1), "pool"
    uri = tmp_path / uri
    do("init", federation=uri, run=ann, encoding="fp32")
    do("pull", federation=uri, run=ben)
    train.main(tiny.flags(run=ben, resume=True, steps=8))
    assert do("push", federation=uri, run=ben, participant="ben")["closed"]
    do("pull", federation=uri, run=ann)
    for name in ("generalist", "generalist-1"):
        mine, theirs = (
            load_file(r / name / "adapters.safetensors") for r in (ann, ben)
        )
        assert close_to(mine, theirs)
