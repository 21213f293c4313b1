"""How many secrets a run was trained on is kept here, and said before a push."""

import json
import shutil

import pytest

import tests.tiny as tiny
from comigs_mlx import sync, train
from comigs_mlx.runs import session, trained_secrets
from comigs_mlx.runs.trained_secrets import TrainedSecrets

TOLD = (
    "this run was trained on 1 IBAN, 1 password, which its generalist may give away: "
    "to share none, train a new run with --redact"
)


@pytest.fixture
def leaky(tmp_path, text_folder):
    """Two secrets in the training text, one in the validation text."""
    folder = shutil.copytree(text_folder, tmp_path / "leaky")
    for name, more in (
        ("train", "my password: hunter2!x\n\npay DE89 3704 0044 0532 0130 00"),
        ("valid", "their password: hunter3!x"),
    ):
        with (folder / f"{name}.txt").open("a") as file:
            file.write(f"\n{more}\n")
    return folder


def test_train_says_and_keeps_what_push_says(
    leaky, tiny_folder, tmp_path, cli, monkeypatch
):
    run, pool = tmp_path / "ann", tmp_path / "pool"
    options = {**tiny.TRAINING, "steps": 2, "model": tiny_folder(), "run": run}
    code, _, err = cli(train.main, **options, data=leaky)
    assert code == 0, err
    assert "note: the training text holds 1 IBAN, 1 password, which" in err
    file = run / trained_secrets.FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["found"] == {"IBAN": 1, "password": 1}

    # A resumed run with the text it had is not searched again.
    monkeypatch.setattr(session, "described", None)
    assert cli(train.main, run=run, resume=True, steps=4)[0] == 0

    shared = {"federation": pool, "run": run, "json": True}
    assert TOLD in cli(sync.main, "init", **shared, quorum=2)[2]
    before = sorted(pool.rglob("*"))
    for dry_run in (True, False):
        flags = ["push", *["--dry-run"] * dry_run]
        code, out, err = cli(sync.main, *flags, **shared, participant="ann")
        assert (code, err.splitlines()[0]) == (0, TOLD)
        assert "password" not in out + "".join(
            path.read_text(errors="replace") for path in pool.rglob("*.json")
        )
        assert (sorted(pool.rglob("*")) == before) is dry_run


def test_it_is_said_before_anything_leaves(run, tmp_path, cli, monkeypatch):
    from comigs_mlx.federation import api

    ann, pool = run("ann"), tmp_path / "pool"
    cli(sync.main, "init", federation=pool, run=ann)
    said = []
    monkeypatch.setattr(sync.command, "say", said.append)
    monkeypatch.setattr(api.submit, "contribute", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sync.main(["push", *tiny.flags(federation=pool, run=ann, participant="ann")])
    assert said == ["no secrets were found in this run's training text"]


def test_a_training_in_a_federation_says_it_once(leaky, tiny_folder, tmp_path, cli):
    pool, shape = tmp_path / "pool", {"model": tiny_folder(), "rank": 2}
    assert cli(sync.main, "init", federation=pool, **shape)[0] == 0
    given = {k: v for k, v in tiny.TRAINING.items() if k != "steps"} | shape
    given |= {"data": leaky, "run": tmp_path / "run", "federation": pool}
    rounds = {"participant": "ann", "rounds": 2, "local_steps": 1, "wait": 0}
    code, _, err = cli(train.main, **given, **rounds)
    assert code == 0, err
    lines = err.splitlines()
    sent = [i for i, line in enumerate(lines) if "contributed to round" in line]
    assert (lines.count(TOLD), len(sent)) == (1, 2)
    assert lines.index(TOLD) < sent[0]


def test_redacted_text_is_trained_on_without_secrets(leaky, tiny_folder, tmp_path, cli):
    options = {**tiny.TRAINING, "steps": 2, "model": tiny_folder(), "data": leaky}
    _, _, err = cli(train.main, **options, run=tmp_path / "run", redact=True)
    assert "note: replaced 2 passwords, 1 IBAN (--redact)" in err
    assert "secrets: none found in the training text" in err
    assert trained_secrets.sentence(tmp_path / "run") == (
        "2 passwords, 1 IBAN in this run's text were replaced before training"
    )


def test_the_larger_number_counts(tmp_path):
    assert "it is not known" in trained_secrets.sentence(tmp_path)
    trained_secrets.add(tmp_path, TrainedSecrets("a", {"IBAN": 2}, {}))
    trained_secrets.add(tmp_path, TrainedSecrets("b", {"IBAN": 1, "password": 3}, {}))
    trained_secrets.add(tmp_path, TrainedSecrets("c", {}, {"IBAN": 4}))
    assert trained_secrets.read(tmp_path) == TrainedSecrets(
        "c", {"IBAN": 2, "password": 3}, {"IBAN": 4}
    )
    assert trained_secrets.sentence(tmp_path).endswith(
        "--redact (4 IBANs in this run's text were replaced before training)"
    )
    (tmp_path / trained_secrets.FILE).write_text("[1]")
    assert trained_secrets.read(tmp_path) is None
