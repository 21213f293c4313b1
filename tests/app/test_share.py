"""What the Share tab does, on plain data and real runs of the tiny model."""

import dataclasses
import shutil

import pytest
from safetensors.numpy import load

import tests.hub_server as hub_server
import tests.tiny as tiny
from app import sharing
from app.actions import share
from app.actions.share import ShareActions
from comigs_mlx import sync, train
from comigs_mlx.errors import ConfigError, FederationError
from comigs_mlx.federation.exchanges.base import NotAllowed, NotThere, Unreachable
from comigs_mlx.federation.formats.invitation import Invitation
from comigs_mlx.federation.participant import membership
from comigs_mlx.federation.participant.membership import Misfit
from comigs_mlx.federation.participant.next_step import ParticipantStatus
from comigs_mlx.federation.participant.round_history import Kept
from comigs_mlx.federation.rounds.submit import Late
from comigs_mlx.federation.rounds.verification import Untrusted
from tests.federation.conftest import TOKENS, reach

FORM = {"place": "folder", "participant": "Ann Lee", "quorum": 2, "who": "all"}

STANDING = ParticipantStatus(
    next="learn",
    round=3,
    name="cem",
    joined=True,
    contributed=False,
    learnt=0,
    others=("ann", "ben"),
    awaited=(),
    missing=1,
    refused=None,
    deadline=None,
)


@pytest.fixture
def people(trained, tmp_path):
    """(name) -> the actions of somebody with the run `notes`."""

    def made(name):
        shutil.copytree(trained(), tmp_path / name / "notes")
        return ShareActions(tmp_path / name)

    return made


def founded(actions, pool, **form):
    form = {**FORM, "address": str(pool), **form}
    _, shown = actions.founding("notes", form)
    return actions.found("notes", form, shown)


def more(actions, steps):
    folder = actions.folder / "notes"
    train.main(tiny.flags(run=folder, resume=True, steps=steps))


def next_of(actions):
    return actions.look("notes", again=True).next


def generalist(actions):
    file = actions.folder / "notes" / "generalist" / "adapters.safetensors"
    return {name: value.tolist() for name, value in load(file.read_bytes()).items()}


def test_a_round_of_two_by_what_the_button_offers(people, tmp_path):
    ann, ben, pool = people("ann"), people("ben"), tmp_path / "pool"
    assert ann.look("notes").next == ""
    assert "invitation below" in founded(ann, pool)
    line = ann.look("notes").invitation
    before = generalist(ben)
    assert "takes part now" in ben.join("notes", line, str(pool), "Ben")
    assert membership.read(ben.folder / "notes").participant == "ben"
    for who, steps in ((ann, 8), (ben, 10)):
        assert next_of(who) == "learn"
        more(who, steps)
        assert next_of(who) == "send"
        shown = who.press("notes", "send", "", 0, "")
        assert f"has learnt in {steps - 6} steps leaves this machine" in shown.leaving
        assert (
            "What would leave has changed"
            in who.press("notes", "send", "", 0, "other").text
        )
        sent = who.press("notes", "send", "", 0, shown.shown)
        assert sent.text.startswith("Sent to round 1 as ")
    assert sent.text == "Sent to round 1 as ben. The round is finished now."
    assert [next_of(ann), next_of(ben)] == ["get", "get"]
    assert ann.press("notes", "get", "", 0, "").text == "“notes” has the newest now."
    view = ben.look("notes", again=True)
    assert "before joining, after 6 steps" in ben.roll_back("notes", view.before)
    assert generalist(ben) == before
    assert ben.look("notes").before is None
    assert ben.get("notes") == "“notes” has the newest now."


def test_what_has_learnt_nothing_is_not_offered(people, tmp_path):
    ann = people("ann")
    founded(ann, tmp_path / "pool")
    assert next_of(ann) == "learn"
    came = ann.press("notes", "send", "", 0, "")
    assert came.wrong
    assert "There is nothing to send" in came.text
    assert came.leaving == ""


def test_a_founding_sends_only_what_was_shown(people, tmp_path):
    ann, pool = people("ann"), tmp_path / "pool"
    form = {**FORM, "address": str(pool)}
    listed, shown = ann.founding("notes", form)
    assert "leaves this machine" in listed
    assert not pool.exists()
    with pytest.raises(ConfigError, match="look at it again"):
        ann.found("notes", {**form, "quorum": 3}, shown)
    assert not pool.exists()


def test_the_form_becomes_what_the_people_agree_on(people, tmp_path):
    ann, pool = people("ann"), tmp_path / "pool"
    given = {"who": "named", "people": "Ben, cem,,ben", "licence": "cc-by-4.0"}
    founded(ann, pool, **given, deadline=86400)
    agreed = ann._overview(str(pool), True, True)["manifest"]
    assert sorted(agreed["participants"]) == ["ann-lee", "ben", "cem"]
    assert agreed["license"] == "cc-by-4.0"
    assert agreed["deadline_seconds"] == 86400


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda a: a.founding("", {**FORM, "address": "x"}), "Choose who you talk to"),
        (lambda a: a.founding("notes", FORM), "Say where it is to be"),
        (lambda a: a.join("notes", "", "", "ann"), "Say where the federation is"),
        (lambda a: a.join("notes", "", "x", " "), "Say who you are"),
        (lambda a: a.join("notes", "", "x", "a/b"), "letters from a to z"),
        (lambda a: a.join("notes", "hello", "x", "ann"), "no invitation"),
        (lambda a: a.leaving("notes", "ann"), "Join a federation first"),
        (lambda a: a.roll_back("notes", 7), "kept on this machine"),
        (lambda a: a.learn("notes", -1), "one step or more"),
    ],
)
def test_what_is_missing_is_asked_for(people, act, message):
    with pytest.raises((ConfigError, FederationError), match=message):
        act(people("ann"))


def test_another_federation_than_one_was_invited_to_is_not_joined(people, tmp_path):
    ann, ben, pool = people("ann"), people("ben"), tmp_path / "pool"
    founded(ann, pool)
    line = ann.look("notes").invitation
    shutil.rmtree(pool)
    founded(people("eve"), pool)
    with pytest.raises(ConfigError, match="another one than you were invited to"):
        ben.join("notes", line, str(pool), "ben")
    assert ben.look("notes").next == ""


def test_only_a_person_accepts_what_has_changed(people, tmp_path):
    ann, pool = people("ann"), tmp_path / "pool"
    founded(ann, pool)
    file = pool / "federation.json"
    file.write_text(file.read_text().replace('"quorum": 2', '"quorum": 1'))
    came = ann.press("notes", "get", "", 0, "")
    assert came.instead == "accept"
    assert "quorum 2 -> 1" in came.text
    assert "--" not in came.text
    assert not ann.press("notes", "accept", "", 0, "").wrong
    assert not ann.press("notes", "get", "", 0, "").wrong


def test_a_run_that_mixes_for_itself_goes_on_to_do_so(people, tmp_path, cli):
    """What the page fetches must not put the shared generalists in their place."""
    ben, pool = people("ben"), tmp_path / "pool"
    founded(people("ann"), pool, quorum=1)
    ben.join("notes", "", str(pool), "ben")
    more(ben, 8)
    run = ben.folder / "notes"
    where = {"federation": pool, "run": run}
    assert cli(sync.main, "push", **where)[0] == 0
    code, _, err = cli(sync.main, "pull", **where, personal="by_loss")
    assert code == 0, err
    assert ben.get("notes") == "“notes” is up to date."
    assert membership.read(run).personal == "by_loss"


def test_an_aggregator_that_this_version_does_not_have_is_told(people, tmp_path):
    """Also where there is no contribution to say it of."""
    ann, pool = people("ann"), tmp_path / "pool"
    founded(ann, pool)
    assert "cannot finish" not in ann.look("notes", again=True).card
    file = pool / "federation.json"
    file.write_text(file.read_text().replace('"name": "mean"', '"name": "<magic>"'))
    made = ann.look("notes", again=True).card
    assert "This version cannot finish the round: unknown aggregator" in made
    assert "&lt;magic&gt;" in made
    assert "<magic>" not in made


def test_a_federation_that_is_out_of_reach_says_so_and_offers_another_try(
    people, tmp_path
):
    ann, pool = people("ann"), tmp_path / "pool"
    founded(ann, pool)
    shutil.move(pool, tmp_path / "away")
    view = ann.look("notes", again=True)
    assert (view.next, view.label) == ("look", "Try again")
    assert "no federation at this address" in view.card


def test_nothing_private_is_sent_over_the_hub(people, monkeypatch):
    with hub_server.Server() as hub:
        reach(monkeypatch, hub.url, TOKENS["ann"])
        ann = people("ann")
        founded(ann, "ann/notes", place="hub", quorum=1)
        assert ann.look("notes", remote=False).label == "See how it stands"
        for steps in (8, 10):
            more(ann, steps)
            before = len(hub.requests)
            _, shown = ann.leaving("notes", "")
            commits = [r for r in hub.requests[before:] if "/commit/" in r.line]
            assert commits == []
            assert "finished" in ann.send("notes", "", shown)
            ann.get("notes")
        sent = b"".join(r.body for r in hub.requests)
        for private in (b"specialist/", b"router/", b"metrics.jsonl", b"state/"):
            assert private not in sent


def test_what_those_who_may_not_write_have_offered_is_taken_in(people, monkeypatch):
    with hub_server.Server() as hub:
        ann, ben = people("ann"), people("ben")
        reach(monkeypatch, hub.url, TOKENS["ann"])
        founded(ann, "ann/notes", place="hub", quorum=2)
        reach(monkeypatch, hub.url, TOKENS["ben"])
        ben.join("notes", "", "hf://ann/notes", "ben")
        more(ben, 8)
        shown = ben.leaving("notes", "")[1]
        came = ben.press("notes", "send", "", 0, shown)
        assert "You may look at this federation, and not write to it" in came.text
        assert (came.instead, came.shown, came.leaving) == ("offer", shown, None)
        done = ben.press("notes", "offer", "", 0, came.shown)
        assert "Offered to the owner" in done.text
        reach(monkeypatch, hub.url, TOKENS["ann"])
        assert ann.look("notes", again=True).offered
        told = ann.close("notes")
        assert "Proposal 1 by ben for ben" in told
        assert told.endswith("Round 1 is not due yet.")
        assert not ann.look("notes", again=True).offered


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "ann and ben are in, waiting for you."),
        (
            {"others": ("ann",), "missing": 2},
            "ann is in, waiting for you and one more.",
        ),
        ({"others": (), "missing": 3}, "Nobody is in yet, waiting for you and 2 more."),
        (
            {"others": (), "missing": 2, "awaited": ("ben",)},
            "Nobody is in yet, waiting for you and ben.",
        ),
        (
            {"contributed": True, "others": (), "next": "wait"},
            "You are in, waiting for one more.",
        ),
        (
            {"contributed": True, "others": ("ann",), "awaited": ("ben",)},
            "ann and you are in, waiting for ben.",
        ),
        (
            {"next": "close", "contributed": True, "missing": 0},
            "ann, ben and you are in: it can be finished now.",
        ),
        (
            {"others": tuple("abcdefghi")},
            "a, b, c, d, e, f and 3 others are in, waiting for you.",
        ),
    ],
)
def test_how_a_round_stands_is_one_sentence(given, said):
    assert sharing.says(dataclasses.replace(STANDING, **given), 0.0) == said


def test_a_deadline_is_told_until_it_is_over():
    found = dataclasses.replace(STANDING, deadline=1_000_000.0)
    assert "waiting for you until " in sharing.says(found, 900_000.0)
    assert sharing.says(found, 1_000_001.0).endswith("waiting for you.")


@pytest.mark.parametrize(
    ("later", "said"),
    [(60, r"\d+:\d\d"), (3 * 86400, r"\w+day, \d+:\d\d"), (9 * 86400, r"\d+ \w+")],
)
def test_a_moment_is_told_as_people_say_it(later, said):
    import re

    noon = 1_764_244_800.0
    assert re.fullmatch(said, sharing.until(noon + later, noon))


def test_an_invitation_s_text_stays_text():
    made = sharing.invited(Invitation("hf://<b>", "<i>\u202e", "ann"))
    assert "<b>hf://&lt;b&gt;</b>" in made
    assert "<i>" not in made
    assert "\u202e" not in made


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unreachable("GET /api: HTTP 503"), "cannot be reached just now"),
        (NotThere("404"), "no federation at this address"),
        (NotAllowed("403 Forbidden"), "not write to it"),
        (Late("round 2 is closed: python -m comigs_mlx.sync pull"), "Get the newest"),
        (Misfit(["rank is 8, the federation's 4"]), "rank is 8, the federation's 4"),
        (Untrusted("it changed; look at sync status; add --trust"), "it changed"),
        (FederationError("check --participant (ValueError('x'))"), "Your name in it"),
    ],
)
def test_every_error_is_in_the_page_s_words(error, said):
    text = sharing.explained(error)
    assert said in text
    for jargon in ("--", "python", "HTTP", "Error", "comigs_mlx", "sync"):
        assert jargon not in text


LEAVING = {
    "files": {"adapters.safetensors": 1200, "contribution.json": 300},
    "tensors": {"adapters.safetensors": {"model.layers.0.lora_a": 64}},
    "contribution.json": {"counters": {"tokens": 5}, "participant": "<b>ann</b>"},
}


def test_all_that_would_leave_is_listed():
    made = sharing.would_leave(LEAVING, "It")
    assert "It leaves this machine: 1.5 kB, and nothing else." in made
    assert "can give passages of it away" in made
    for part in ("counters.tokens", "model.layers.0.lora_a", "&lt;b&gt;ann&lt;/b&gt;"):
        assert part in made


def test_the_duties_of_the_base_s_licence_are_shown():
    mit = {**LEAVING, "base_license": "mit"}
    assert "Built with" not in sharing.would_leave(mit, "")
    made = sharing.would_leave({**LEAVING, "base_license": "llama3.2"}, "")
    assert "show &quot;Built with Llama&quot; where people see it" in made


def test_a_push_sends_only_what_was_shown():
    other = {**LEAVING, "files": {"adapters.safetensors": 1201}}
    assert share.digest(LEAVING) == share.digest(dict(reversed(LEAVING.items())))
    assert share.digest(LEAVING) != share.digest(other)


def test_rounds_become_a_plot():
    rounds = [{"round": 1, "valid_loss": 1.0}, {"round": 2, "valid_loss": 0.0}]
    assert "validation from 2.72 to 1" in sharing.by_round(rounds)
    assert sharing.by_round(rounds[:1]) == ""
    assert sharing.by_round([]) == ""


def test_what_is_kept_has_a_name():
    kept = [Kept(3), Kept(0), Kept(-1, 6, True), Kept(-2, 1), Kept(-3, None, True)]
    assert [sharing.kept(one) for one in kept] == [
        "in round 3",
        "at the beginning",
        "before joining, after 6 steps",
        "of its own, after 1 step",
        "before joining",
    ]


@pytest.mark.parametrize(
    ("known", "may"),
    [
        (None, False),
        ({"next": "send", "learning": False}, True),
        ({"next": "send", "learning": True}, False),  # saved, and not yet at its end
        ({"next": "learn", "learning": False}, False),
    ],
)
def test_the_button_says_send_only_where_nothing_is_learning(known, may):
    assert sharing.may_offer(known) is may


def test_noise_can_be_chosen_and_is_told_with_what_leaves(people, tmp_path):
    ann = people("ann")
    founded(ann, tmp_path / "pool")
    more(ann, 8)
    assert ann.look("notes", again=True).noise is None
    plain = ann.press("notes", "send", "", 0, "")
    assert "noise, which you can add below" in plain.leaving
    noise = share.private(True, 1, 2)
    seen = ann.press("notes", "send", "", 0, "", noise)
    assert "There is noise on what leaves" in seen.leaving
    assert "epsilon" in seen.leaving
    assert seen.shown != plain.shown
    # what was shown without noise is not what would leave now, and the reverse
    other = ann.press("notes", "send", "", 0, plain.shown, noise)
    assert (other.text, other.shown) == (share.CHANGED, "")
    sent = ann.press("notes", "send", "", 0, seen.shown, noise)
    assert not sent.wrong, sent.text
    assert ann.look("notes", again=True).noise == (1.0, 2.0)
    kept = membership.read(ann.folder / "notes")
    assert (kept.privacy.clip, kept.privacy.noise) == (1.0, 2.0)


@pytest.mark.parametrize(("clip", "noise"), [(0, 1), (None, 1), (1, None), (-1, 2)])
def test_noise_has_two_numbers_above_0(clip, noise):
    assert share.private(False, clip, noise) is None
    with pytest.raises(ConfigError, match="numbers above 0"):
        share.private(True, clip, noise)


def test_the_time_of_learning_on_it_is_what_was_measured_here(people):
    ann = people("ann")
    config = ann.folder / "notes" / "config.yaml"
    metrics = ann.folder / "notes" / "metrics.jsonl"
    line = '{"step": %d, "train_loss": 1.0, "tokens_per_second": 10.0}\n'
    metrics.write_text("".join(line % step for step in (1, 2, 3)))
    saved = share.read_yaml(config)
    tokens = 600 * saved["batch_size"] * saved["seq_len"]
    told = ann.time("notes", 600)
    assert told.startswith("about ")
    # 10 tokens a second, and the router's steps besides
    assert tokens / 10 / 3600 < float(told.split()[1]) * (1 if " h" in told else 1 / 60)
    for steps in (0, None, -3):
        assert ann.time("notes", steps) == ""
    metrics.unlink()
    assert ann.time("notes", 600) == ""
    assert ann.time("nothing", 600) == ""


class TestAskingByOurselves:
    """A federation on the Hub is asked seldom, and less often where it fails."""

    @pytest.fixture
    def asked(self, people, monkeypatch):
        """The actions of somebody on the Hub, what they asked for, and a clock."""
        ann, clock, asked = people("ann"), [1000.0], []
        record = dataclasses.replace(
            membership.Membership("hf://ann/pool", "f" * 8, 0, "x" * 64), uri=URI
        )
        monkeypatch.setattr(membership, "read", lambda folder: record)
        monkeypatch.setattr(share.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(
            ShareActions, "_on_desk", lambda self, act, *given: act(*given)
        )

        def overview(exchange):
            asked.append(clock[0])
            if ann.fails:
                raise Unreachable("x")
            return {"seen": len(asked)}

        ann.fails = False
        monkeypatch.setattr(share.api, "overview", overview)
        return ann, asked, clock

    def test_once_in_a_while_whoever_looks(self, asked):
        ann, times, clock = asked
        for _ in range(5):
            ann.ask_quietly("notes")
        assert times == [1000.0]
        clock[0] += share.FRESH + 1
        ann.ask_quietly("notes")
        assert len(times) == 2
        assert ann._overview(URI, False, False) == {"seen": 2}  # and `look` knows

    def test_less_and_less_often_where_it_fails(self, asked):
        ann, times, clock = asked
        ann.fails = True
        for _ in range(int(6 * 3600 / 60)):
            ann.ask_quietly("notes")
            clock[0] += 60
        gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
        assert gaps[:3] == [300, 600, 1200]
        assert gaps[-1] == share.SELDOM
        ann.fails = False
        clock[0] += share.SELDOM
        ann.ask_quietly("notes")
        clock[0] += share.FRESH + 1
        count = len(times)
        ann.ask_quietly("notes")
        assert len(times) == count + 1  # as often as before

    def test_nobody_in_sight_asks_nothing(self, asked):
        ann, times, _ = asked
        ann.ask_quietly("")
        assert times == []


URI = "hf://ann/pool"
