"""A signature is of everything that counts, by a key that only its owner can read."""

import dataclasses
import sys
import threading

import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats import signatures
from comigs_mlx.federation.formats.contribution import Contribution, FileEntry, Stored
from comigs_mlx.federation.formats.manifest import Member
from comigs_mlx.federation.formats.tensor_source import Arrays, digest
from comigs_mlx.federation.rounds.checks import Expected, Refused, check_contribution

CURRENT = sharing.tensors()


@pytest.fixture
def key(tmp_path):
    return signatures.load_key(tmp_path / "deep" / "key.pem")


@pytest.fixture
def made():
    agreed = sharing.manifest(CURRENT)
    return sharing.contributed(sharing.moved(CURRENT, 1), CURRENT, agreed)


def test_the_key_is_the_users_alone_and_stays_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    first = signatures.load_key()
    file = signatures.key_file()
    assert file == tmp_path / "config" / "comigs_mlx" / "keys" / "contributions.pem"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    again = signatures.load_key()
    assert signatures.public_key(again) == signatures.public_key(first)
    other = signatures.load_key(tmp_path / "other.pem")
    assert signatures.public_key(other) != signatures.public_key(first)


def test_processes_that_start_at_once_use_one_key(tmp_path):
    file, found = tmp_path / "key.pem", []

    def start():
        found.append(signatures.public_key(signatures.load_key(file)))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("content", [b"", b"-----BEGIN", b"\0" * 32])
def test_a_damaged_key_is_told(tmp_path, content):
    file = tmp_path / "key.pem"
    file.touch(mode=0o600)
    file.write_bytes(content)
    with pytest.raises(FederationError, match="holds no key: move it away"):
        signatures.load_key(file)


def test_a_key_that_others_may_read_is_not_used(tmp_path):
    signatures.load_key(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(FederationError, match="other users may read .*: chmod 600 "):
        signatures.load_key(tmp_path / "key.pem")


def test_a_signature_holds_after_writing_and_reading(key, made):
    signed = signatures.sign(made.metadata, key)
    assert made.metadata.signature is None
    back = Contribution.from_json(signed.to_json())
    assert signatures.verify(back, signatures.public_key(key))
    whole = dataclasses.replace(signed.experts, scale=4)  # the same number
    assert signatures.verify(
        dataclasses.replace(signed, experts=whole), signatures.public_key(key)
    )


def test_any_change_breaks_it(key, made):
    public, signed = signatures.public_key(key), signatures.sign(made.metadata, key)
    entry = FileEntry("0" * 64, 1)
    changes = {
        "participant": "bob",
        "round": 4,
        "base_fingerprint": "other",
        "experts": dataclasses.replace(signed.experts, rank=3),
        "encoding": "fp32",
        "counters": {"tokens": 1001, "steps": 10},
        "files": {**signed.files, "adapters.safetensors": entry},
        "signature": "00" * 64,
        "account": "eve",
        "federation": "ee" * 16,
        "start": "ee" * 32,
    }
    fields = {field.name for field in dataclasses.fields(Contribution)}
    assert fields - changes.keys() == {"privacy"}
    for name, value in changes.items():
        assert not signatures.verify(
            dataclasses.replace(signed, **{name: value}), public
        )
    assert not signatures.verify(made.metadata, public)
    assert not signatures.verify(signed, "ab" * 32)


def test_who_has_a_key_in_the_manifest_must_sign(key, made, tmp_path):
    members = {"ann": Member(None, signatures.public_key(key))}
    agreed = sharing.manifest(CURRENT, participants=members)
    expected = Expected(agreed, 3, Arrays("", CURRENT))

    def judged(metadata):
        files = {**made.files(), "contribution.json": metadata.to_json()}
        return check_contribution(files, "ann", expected)

    assert isinstance(judged(signatures.sign(made.metadata, key)), Stored)
    assert judged(made.metadata) == Refused("not signed")
    stranger = signatures.load_key(tmp_path / "stranger.pem")
    forged = signatures.sign(made.metadata, stranger)
    assert judged(forged) == Refused("wrong signature")


def test_without_the_package_the_command_to_install_it_is_told(
    monkeypatch, tmp_path, key, made
):
    signed = signatures.sign(made.metadata, key)
    public = signatures.public_key(key)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    install = r"need the package cryptography: pip install 'comigs-mlx\[federation\]'"
    with pytest.raises(FederationError, match=install):
        signatures.load_key(tmp_path / "new.pem")
    with pytest.raises(FederationError, match=install):
        signatures.verify(signed, public)
    agreed = sharing.manifest(CURRENT, participants={"ann": Member(None, public)})
    with pytest.raises(FederationError, match=install):
        check_contribution(
            made.files(), "ann", Expected(agreed, 3, Arrays("", CURRENT))
        )
    assert list(tmp_path.glob("*.pem")) == []


def test_a_signature_is_good_in_its_own_federation_only(key):
    """Ann's signed files copied into another federation of the same people."""
    member = {"ann": Member(public_key=signatures.public_key(key))}
    work = sharing.manifest(CURRENT, participants=member, id="ab" * 16)
    other = dataclasses.replace(work, id="cd" * 16)
    old = dataclasses.replace(work, id=None)

    def judged(manifest, contribution, prepared):
        signed = dataclasses.replace(prepared, metadata=contribution)
        expected = Expected(manifest, 3, Arrays("", CURRENT))
        found = check_contribution(signed.files(), "ann", expected)
        return getattr(found, "reason", None)

    given = sharing.moved(CURRENT, 1)
    prepared = sharing.contributed(given, CURRENT, work, start=digest(CURRENT), round=3)
    signed = signatures.sign(prepared.metadata, key)
    assert judged(work, signed, prepared) is None
    assert "it is for another federation (abababab)" in judged(other, signed, prepared)
    assert "it is for another federation" in judged(old, signed, prepared)
    stripped = dataclasses.replace(signed, federation=None)
    assert "does not say for which federation" in judged(work, stripped, prepared)
    plain = signatures.sign(
        dataclasses.replace(prepared.metadata, federation=None, start=None), key
    )
    assert "does not say for which federation" in judged(work, plain, prepared)
    assert judged(old, plain, prepared) is None  # an earlier version's
    elsewhere = dataclasses.replace(prepared.metadata, start="0" * 64)
    text = judged(work, signatures.sign(elsewhere, key), prepared)
    assert "did not start from the generalist of round 2" in text
    assert "wrong signature" in judged(
        work, dataclasses.replace(signed, start=None), prepared
    )


def test_by_hand_a_contribution_need_not_say_where_it_belongs():
    agreed = sharing.manifest(CURRENT, id="ab" * 16)
    prepared = sharing.contributed(sharing.moved(CURRENT, 1), CURRENT, agreed, round=3)
    expected = Expected(agreed, 3, Arrays("", CURRENT))
    for fields, wrong in (
        ({"federation": None, "start": None}, None),
        ({"federation": "cd" * 16}, "another federation"),
        ({"start": "0" * 64}, "did not start from"),
    ):
        metadata = dataclasses.replace(prepared.metadata, **fields)
        changed = dataclasses.replace(prepared, metadata=metadata)
        found = check_contribution(changed.files(), "ann", expected)
        assert wrong is None or wrong in found.reason
        assert wrong is not None or not hasattr(found, "reason")
