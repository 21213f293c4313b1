"""The line that invites to a federation: as it is written, so it is read."""

import dataclasses
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats import invitation
from comigs_mlx.federation.formats.invitation import Invitation
from tests.federation import sharing

ID = "0f" * 16
ANN = Invitation("hf://ann/notes", "org/model", "ann", ID)
LINE = f"comigs invitation to hf://ann/notes, base model org/model, from ann, id {ID}"

texts = st.text(min_size=1, max_size=60).filter(
    lambda t: t.encode("utf-8", "ignore").decode() == t
)


def test_it_is_one_line_for_people():
    assert str(ANN) == LINE
    assert invitation.parse(LINE) == ANN


@settings(max_examples=40)
@given(texts, texts)
def test_whatever_it_holds_is_read_again(uri, base):
    made = dataclasses.replace(ANN, uri=uri, base=base)
    assert "\n" not in str(made)
    assert invitation.parse(str(made)) == made


@pytest.mark.parametrize(
    "text",
    [
        f"Hi Ben!\n\n{LINE}.\nSee you",
        "> " + LINE.replace(" ", "\n> "),
        f'"{LINE}"',
        LINE.upper()
        .replace("HF://ANN/NOTES", "hf://ann/notes")
        .replace("ORG/MODEL", "org/model")
        .replace("ANN,", "ann,"),
        LINE.replace(" ", "\u00a0"),
    ],
)
def test_it_is_found_in_what_mail_and_chats_make_of_it(text):
    assert invitation.parse(text) == ANN


def test_sender_and_id_may_be_missing():
    assert invitation.parse(LINE.split(", from")[0]) == Invitation(
        "hf://ann/notes", "org/model"
    )


@pytest.mark.parametrize("text", ["", "hello", "comigs invitation to", LINE[:30]])
def test_what_is_none_is_told(text):
    with pytest.raises(FederationError, match="no invitation: paste the whole line"):
        invitation.parse(text)


def test_a_hostile_text_takes_no_time():
    begin = time.perf_counter()
    for text in (
        "comigs invitation to " * 50_000,
        "comigs invitation to " + "x" * 10**6,
    ):
        with pytest.raises(FederationError):
            invitation.parse(text)
    assert time.perf_counter() - begin < 2


def test_another_federation_at_the_address_is_noticed():
    manifest = dataclasses.replace(sharing.manifest(sharing.tensors()), id=ID)
    ANN.check(manifest)
    dataclasses.replace(ANN, id=None).check(manifest)
    other = dataclasses.replace(manifest, id="1" * 32)
    with pytest.raises(FederationError, match="another one than you were invited to"):
        ANN.check(other)


def test_the_founder_invites_where_nobody_else_does():
    manifest = dataclasses.replace(
        sharing.manifest(sharing.tensors()), id=ID, founder="ann"
    )
    assert invitation.of("pool", manifest).sender == "ann"
    assert invitation.of("pool", manifest, "ben").sender == "ben"
