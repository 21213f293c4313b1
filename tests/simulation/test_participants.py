"""Participants from folders and files, and what is said where something is wrong."""

import pytest

import tests.tiny as tiny
from comigs_mlx.config import from_dict
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.errors import ConfigError, DataError
from comigs_mlx.simulation import participants
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.participants import Device


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    folder = tmp_path_factory.mktemp("users")
    for i, name in enumerate(("ann", "bob-2")):
        tiny.write_text(folder / name, documents=40, seed=i)
    (folder / ".hidden").mkdir()
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    from comigs_mlx.model.base import load_base

    return load_base(str(tiny_folder())).tokenizer


def read(users, tokenizer, **options):
    given = {"users": str(users), "out": "out", "token_cache": False, **options}
    return participants.read(
        from_dict(SimulateConfig, given), tokenizer, lambda line: None
    )


def test_every_folder_is_a_participant(users, tokenizer):
    ann, bob = read(users, tokenizer)
    assert (ann.name, bob.name) == ("ann", "bob-2")
    text = (users / "ann" / "train.txt").read_bytes()
    assert isinstance(ann.train, TokenStream)
    # One token a byte, one blank line between documents, EOS after each of the 40.
    assert len(ann.train.tokens) == len(text) - 1 - 2 * 39 + 40
    assert ann.device == bob.device == Device()


def test_specialists_in_the_order_of_names(users, tokenizer):
    found = read(users, tokenizer, specialists=(4, 1))
    assert [person.device.specialists for person in found] == [4, 1]
    with pytest.raises(ConfigError) as error:
        read(users, tokenizer, specialists=(4, 1, 2))
    assert str(error.value) == (
        "--specialists has 3 numbers, for 2 participants (ann, bob-2)"
    )


def test_devices_from_a_file(users, tokenizer, tmp_path):
    file = tmp_path / "devices.yaml"
    file.write_text("bob-2: {rank: 2, specialists: 3, train_share: 0.5}\n")
    whole, half = read(users, tokenizer), read(users, tokenizer, participants=str(file))
    assert half[0].device == Device()
    assert half[1].device == Device(specialists=3, rank=2, train_share=0.5)
    documents = [len(set(p[1].train.documents.tolist())) for p in (whole, half)]
    assert documents == [40, 20]
    assert len(whole[1].test.tokens) == len(half[1].test.tokens)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eve: {rank: 2}", "eve is none of ann, bob-2"),
        ("ann: {ranks: 2}", "ann: expected {generalists, rank, specialists, train"),
        ("ann: {rank: many}", "ann: rank: expected a number, got 'many'"),
        ("ann: {train_share: 2}", "ann: train_share 2 must be above 0, at most 1"),
        ("ann: {rank: 0}", "ann: rank 0 must be at least 1"),
        ("ann: 3", "ann: expected {generalists"),
    ],
)
def test_a_wrong_file_is_refused_by_name(users, tokenizer, tmp_path, text, message):
    file = tmp_path / "devices.yaml"
    file.write_text(text + "\n")
    with pytest.raises(ConfigError) as error:
        read(users, tokenizer, participants=str(file))
    assert str(error.value).startswith(f"{file}: {message}")


def test_folders_that_cannot_be_participants(tokenizer, tmp_path):
    with pytest.raises(DataError, match="no folder .*/none: --users takes one folder"):
        read(tmp_path / "none", tokenizer)
    with pytest.raises(DataError, match="has no folders: make one a participant"):
        read(tmp_path, tokenizer)
    tiny.write_text(tmp_path / "Ann_1", documents=20)
    with pytest.raises(DataError, match="Ann_1: rename it, a participant's name has"):
        read(tmp_path, tokenizer)
    (tmp_path / "Ann_1").rename(tmp_path / "ann")
    (tmp_path / "ann" / "test.txt").unlink()
    with pytest.raises(DataError, match="ann has no test text: add test.txt"):
        read(tmp_path, tokenizer)
