"""A federation as HTML and in the page's words: the round, what leaves, errors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import (
    Moved,
    NotAllowed,
    NotThere,
    TooLarge,
    Unreachable,
)
from comigs_mlx.federation.formats.invitation import Invitation
from comigs_mlx.federation.formats.strict_json import visible
from comigs_mlx.federation.participant.membership import Misfit
from comigs_mlx.federation.participant.next_step import Next, ParticipantStatus
from comigs_mlx.federation.participant.round_history import Kept
from comigs_mlx.federation.rounds import status
from comigs_mlx.federation.rounds.repository import NotFounded
from comigs_mlx.federation.rounds.submit import Late
from comigs_mlx.federation.rounds.verification import Untrusted
from comigs_mlx.model.licence import Licence

from . import curves, render, words

STAGES = {
    "get": "Get the newest",
    "learn": "Learn on it",
    "look": "See what leaves",
    "send": "Send",
}
"""The stages of a round as the card shows them."""

LABELS: dict[Next, str] = {
    "get": "Get the newest",
    "learn": "Learn on it",
    "send": "Show what leaves",
    "wait": "Look again",
    "close": "Finish the round",
    "follow": "Look again",
}
"""What the one button says."""

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November "
    "December"
).split()

MOST_NAMED = 6
"""People who are named in a sentence; of more, how many others there are."""

HONEST = (
    "No file of yours leaves this machine, and neither do your specialist and your "
    "router. What a contribution has learnt from your text does leave, and can give "
    "passages of it away, to everybody who can read the federation. Only differential "
    "privacy bounds that: noise, which you can add below before you look again."
)

NOISY = (
    "No file of yours leaves this machine, and neither do your specialist and your "
    "router. There is noise on what leaves: what anybody can find out from it about "
    "your text is bounded by {spent}, counted over all that you have sent with noise. "
    "About 1 is a strong promise, more than 10 a weak one."
)

NOISE = (
    "Differential privacy: what you have learnt is cut to a length, and noise is added "
    "to every number of it before it leaves. The more noise, the less anybody can find "
    "out about your text, and the less the others gain from it; small groups pay the "
    "most. Once used it stays on for this one, and each round spends a part of the "
    "promise."
)

UNABLE = "This version cannot finish the round: "
"""What is said of a federation whose aggregator this version does not have."""


def named(people: Sequence[str]) -> str:
    """Names in a sentence: "ann, ben and you"."""
    rest = len(people) - MOST_NAMED
    shown = list(people if rest < 2 else people[:MOST_NAMED])
    shown += [f"{rest} others"] if rest >= 2 else []
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)


def until(moment: float, now: float) -> str:
    """A moment as people say it: "18:30", "Friday, 18:30", "4 December"."""
    at, today = datetime.fromtimestamp(moment), datetime.fromtimestamp(now)
    days = (at.date() - today.date()).days
    clock = f"{at.hour}:{at.minute:02}"
    if days <= 0:
        return clock
    if days < 7:
        return f"{DAYS[at.weekday()]}, {clock}"
    year = "" if at.year == today.year else f" {at.year}"
    return f"{at.day} {MONTHS[at.month - 1]}{year}"


def may_offer(known: Mapping[str, Any] | None) -> bool:
    """Whether the one button may say Send already, which a page must not take back.

    While a run is learning it says Learning, also where its save is there to be sent.

    Args:
        known: The view that the page has, as JSON values.
    """
    return known is not None and known["next"] == "send" and not known["learning"]


def says(found: ParticipantStatus, now: float) -> str:
    """How the open round stands, in a sentence."""
    people = [*found.others, *(["you"] if found.contributed else [])]
    if people == ["you"]:
        begun = "You are in"
    elif people:
        begun = f"{named(people)} {'are' if people[1:] else 'is'} in"
    else:
        begun = "Nobody is in yet"
    return f"{begun}{_awaited(found, now)}."


def _awaited(found: ParticipantStatus, now: float) -> str:
    """Who is waited for, and until when."""
    if found.next == "close":
        return ": it can be finished now"
    late = found.deadline is not None and found.deadline > now
    end = f" until {until(found.deadline or 0, now)}" if late else ""
    if found.missing == 0:
        return end
    people = [] if found.contributed else ["you"]
    left = found.missing - len(people)
    known = found.awaited if len(found.awaited) <= left else ()
    left -= len(known)
    people += [*known, *([_more(left)] if left > 0 else [])]
    return f", waiting for {named(people)}{end}"


def _more(count: int) -> str:
    return "one more" if count == 1 else f"{count} more"


def does(found: ParticipantStatus, name: str, training: bool, shares: bool) -> str:
    """What the one button would do now, in a sentence or two.

    Args:
        found: How the run stands.
        name: What the run is called.
        training: Whether it learns right now.
        shares: Whether it gets and sends by itself while it learns.
    """
    if training:
        return f"“{name}” is learning. You can go on talking to it."
    if found.refused is not None and found.next == "wait":
        return f"What you sent was not taken: {found.refused}."
    if found.next == "send":
        return f"“{name}” has learnt in {_steps(found.learnt)} that nobody has yet."
    if found.next == "learn" and shares:
        return f"While it learns, “{name}” gets and sends by itself, round after round."
    known = {
        "get": f"A newer version of everyone's half is there for “{name}”. What it has "
        "learnt and not sent is kept on this machine, to go back to.",
        "learn": f"“{name}” has the newest, and has learnt nothing on it yet: there is "
        "nothing to send.",
        "wait": "What you have sent is there. When the round is finished, you get the "
        "newest here.",
        "close": "Everything that is needed is there. Whoever presses first finishes "
        "the round for everybody.",
        "follow": f"“{name}” only listens: it uses what the others have made, and "
        "sends nothing.",
    }
    return known[found.next]


def kept(one: Kept) -> str:
    """When a run had a kept generalist: "before joining", "in round 3"."""
    if one.number >= 0:
        return f"in round {one.number}" if one.number else "at the beginning"
    when = "before joining" if one.joining else "of its own"
    return when if one.step is None else f"{when}, after {_steps(one.step)}"


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"


def card(
    found: ParticipantStatus,
    overview: Mapping[str, Any],
    what: str,
    training: bool,
    now: float,
) -> str:
    """The open round: who is in, what is waited for, and where this run stands."""
    head = (
        f"<header><h3>Round {found.round}</h3>"
        f'<p class="cm-where">{escape(visible(overview["uri"]))}</p></header>'
    )
    problem = overview["problem"]
    return (
        f'<section class="cm-round" aria-label="Round {found.round}">{head}'
        f'<p class="cm-says">{escape(says(found, now))}</p>{_people(found)}'
        f"{_stages(found, training)}"
        f'<p class="cm-does">{escape(what)}</p></section>'
        + ("" if problem is None else render.problem(words.page(UNABLE + problem)))
    )


def _people(found: ParticipantStatus) -> str:
    """Everybody in the round as faces, with what they have done."""
    own = found.name or "you"
    people = [(own, "you", found.contributed)]
    people += [(name, name, True) for name in found.others]
    people += [(name, name, False) for name in found.awaited]
    faces = [_face(*one) for one in people[:12]]
    empty = max(found.missing - len(found.awaited) - (not found.contributed), 0)
    faces += [_face("", "somebody", False)] * min(empty, 3)
    return f'<ul class="cm-people" aria-label="Who is in">{"".join(faces)}</ul>'


def _face(name: str, label: str, there: bool) -> str:
    state, told = ("in", "is in") if there else ("out", "is not in yet")
    told = told.replace("is", "are", 1) if label == "you" else told
    first = escape(name[:1].upper() or "+")
    return (
        f'<li data-state="{state}"><span class="cm-face" aria-hidden="true">{first}'
        f"</span><span>{escape(label)}"
        f'<span class="cm-unseen"> {told}</span></span></li>'
    )


def _stages(found: ParticipantStatus, training: bool) -> str:
    """The stages of a round, and which one is now."""
    if found.next == "follow":
        return ""
    now = {"get": 0, "learn": 1, "send": 2, "wait": 4, "close": 4}[found.next]
    now = 1 if training and found.next != "get" else now
    items = []
    for i, label in enumerate(STAGES.values()):
        state = "done" if i < now else "now" if i == now else "later"
        current = ' aria-current="step"' if state == "now" else ""
        items.append(f'<li data-state="{state}"{current}>{label}</li>')
    return f'<ol class="cm-stages" aria-label="This round">{"".join(items)}</ol>'


def invited(one: Invitation) -> str:
    """What an invitation says, before anything is asked of its address."""
    who = f"{one.sender} invites you" if one.sender else "You are invited"
    return (
        f'<p class="cm-says">{escape(visible(who))} to '
        f"<b>{escape(visible(one.uri))}</b>, on the base model "
        f"{escape(visible(one.base))}.</p>"
    )


def would_leave(values: Mapping[str, Any], what: str) -> str:
    """Everything that would leave, as HTML: a sentence, and every byte folded.

    Args:
        values: What `api.leaving` or `api.founding` lists.
        what: What leaves, in a few words.
    """
    total = sum(values["files"].values())
    licence = values.get("base_license")
    duties = () if licence is None else Licence(licence).duties
    told = [render.note(f"{one[:1].upper()}{one[1:]}.") for one in duties]
    return (
        f'<div class="cm-leaves"><p class="cm-says">{escape(what)} leaves this '
        f"machine: {render.size(total)}, and nothing else.</p>{_honest(values)}"
        f"{''.join(told)}<details><summary>Every byte of it</summary>"
        f"{_tables(values)}</details></div>"
    )


def _honest(values: Mapping[str, Any]) -> str:
    """What can be read from what would leave, in honest words: HTML."""
    told = values.get("contribution.json", {}).get("privacy")
    if not told:
        return render.note(HONEST)
    return render.note(NOISY.format(spent=status.epsilon(told)))


def _tables(values: Mapping[str, Any]) -> str:
    files = [(name, f"{size:,}") for name, size in values["files"].items()]
    tensors = [
        (file, name, f"{size:,}")
        for file, inner in values["tensors"].items()
        for name, size in inner.items()
    ]
    made = render.table(("file", "bytes"), files, "Files")
    for name in ("contribution.json", "federation.json"):
        if name in values:
            caption = f"Every field of {name}"
            made += render.table(("field", "value"), flat(values[name]), caption)
    return made + render.table(("file", "tensor", "numbers"), tensors, "Every tensor")


def flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested JSON values as paths and texts."""
    if isinstance(value, Mapping) and value:
        inner = [(f"{path}.{k}" if path else str(k), v) for k, v in value.items()]
        return [row for key, one in inner for row in flat(one, key)]
    return [(path, json.dumps(value, default=str))]


def details(values: Mapping[str, Any]) -> str:
    """All that is known of a federation, for who wants to see it."""
    manifest, last, sizes = values["manifest"], values["round"], values["bytes"]
    facts = {
        "base model": visible(manifest["base_model"]["id"]),
        "a round needs": f"{manifest['quorum']} people",
        "combined by": manifest["aggregator"]["name"],
        "licence": manifest["license"] or "not said",
        "last contributors": ", ".join(last["contributors"]) or "nobody yet",
        "size": render.size(sizes["repository"]),
    }
    rows = [(name, *fate(one)) for name, one in values["contributions"].items()]
    head = ("who", "taken", "why not", "privacy spent", "size")
    offered = [
        (str(one["number"]), status.proposal(one)) for one in values["proposals"]
    ]
    trusted = render.listing(map(words.page, status.trusted(values["trust"])), "Trust")
    return (
        render.facts(facts, "Federation")
        + render.table(head, rows, f"Sent to round {values['open_round']}")
        + (render.table(("number", "fate"), offered, "Proposals") if offered else "")
        + trusted
    )


def by_round(rounds: Sequence[Mapping[str, Any]]) -> str:
    """What a training in a federation has measured, as a plot of perplexities."""
    lines = {
        name: [
            (r["round"], math.exp(min(r[key], 50.0))) for r in rounds if _has(r, key)
        ]
        for name, key in (("validation", "valid_loss"), ("test", "test_loss"))
    }
    values = [value for points in lines.values() for _, value in points]
    if len(values) < 2:
        return ""
    least = max(values) / 10
    return curves.chart("Perplexity by round", lines, "round", "perplexity", least)


def _has(one: Mapping[str, Any], key: str) -> bool:
    return isinstance(one.get(key), (int, float)) and isinstance(one.get("round"), int)


def fate(one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """What becomes of a contribution: taken, why not, privacy spent, size."""
    reason = one["reason"] or ""
    if one["clipped"] is not None:
        reason = f"shortened to {one['clipped']:.0%} {reason}".strip()
    return (
        "yes" if one["accepted"] else "no",
        reason,
        status.epsilon(one["privacy"]) if one["privacy"] else "no noise",
        render.size(one["bytes"]),
    )


KNOWN: tuple[tuple[type[FederationError], str], ...] = (
    (
        Unreachable,
        "The federation cannot be reached just now, and nothing has been changed. "
        "Check the connection, or whether the shared drive is there, and try again.",
    ),
    (
        Late,
        "The round was finished in the meantime. Get the newest, learn on it, and send "
        "again.",
    ),
    (
        NotFounded,
        "There is no federation at this address. A shared folder may lie elsewhere on "
        "this machine than on your friend's: say where it is here.",
    ),
    (
        NotThere,
        "There is no federation at this address, or you may not see it. A shared "
        "folder may lie elsewhere on this machine; of a private repository, the owner "
        "has to let you in.",
    ),
    (
        NotAllowed,
        "You may look at this federation, and not write to it. Ask its owner for the "
        "right to write, or check that the folder can be written to.",
    ),
    (TooLarge, "A file in this federation is larger than it may be: tell its owner."),
    (Moved, "Somebody else was faster. Nothing is lost: try again."),
)
"""Errors of a federation in the page's words, the more special ones first."""


def explained(error: FederationError) -> str:
    """An error of a federation in the page's words, and what to do."""
    if isinstance(error, Misfit):
        return (
            "What you have chosen to share does not fit this federation: "
            f"{'; '.join(error.problems)}. Train one that fits in the Train tab, and "
            "choose the federation there."
        )
    if isinstance(error, Untrusted):
        text = str(error).split("; look at sync status")[0]
        return (
            f"Stop and look: {words.page(text)}. Nothing has been changed here. Ask "
            "who runs the federation whether this is right; if it is, you can accept "
            "it."
        )
    for kind, text in KNOWN:
        if isinstance(error, kind):
            return text
    return words.page(str(error))
