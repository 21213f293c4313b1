"""The Share tab: found or join a federation, and the one thing to do next in it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from comigs_mlx.config import from_dict, read_yaml
from comigs_mlx.errors import ComigsError, ConfigError, FederationError
from comigs_mlx.federation import api
from comigs_mlx.federation.exchanges.base import Exchange, NotAllowed
from comigs_mlx.federation.exchanges.open import open_exchange
from comigs_mlx.federation.formats import invitation
from comigs_mlx.federation.formats.invitation import Invitation
from comigs_mlx.federation.formats.manifest import name_check
from comigs_mlx.federation.participant import membership
from comigs_mlx.federation.participant.options import InitConfig
from comigs_mlx.federation.rounds import status
from comigs_mlx.federation.rounds.verification import Untrusted
from comigs_mlx.inference.worker import Worker
from comigs_mlx.options import PrivacyOptions, TrainConfig
from comigs_mlx.reports import background
from comigs_mlx.runs import estimate, listing, process

from .. import helped, remedies, render, sharing, words
from ..model_queue import explain
from ..remedies import IN_A_ROUND
from . import runs

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds to go on trying for, while somebody waits before the page."""

QUIET_PATIENCE = 5.0
"""The same where nobody waits, and somebody who does may come."""

SELDOM = 3600.0
"""Seconds between two tries, at most, to reach a federation that cannot be reached."""

FRESH, FRESH_FOLDER = 300.0, 20.0
"""Seconds for which what was seen of a federation is not asked for again."""

SPEED = (
    *("model", "batch_size", "seq_len", "grad_accumulation", "grad_checkpoint"),
    *("router", "router_every", "router_steps"),
)
"""Options of a training that its time depends on."""

STEPS = 50
"""Steps of learning that are offered at first."""

NOTHING = (
    "Choose who you talk to first: the base model alone has nothing to share. Train "
    "one of your own in the Train tab."
)


@dataclass(frozen=True)
class View:
    """What the tab shows.

    Attributes:
        card: HTML: the round, or why there is none to show.
        next: What the one button does: a `standing.Next`, `accept`, `look`, or empty
            where there is no federation yet.
        label: What it says.
        learning: Whether the run learns right now.
        before: The number of the generalist that the run had before it joined; None
            where none is kept, or it is in use.
        invitation: The line that invites others.
        details: HTML: all that is known of the federation.
        unnamed: Whether the run has no name in it yet.
        helped: HTML: whether it has helped, with what is kept to go back to.
        measuring: Whether this is being measured right now.
        offered: Whether people who may not write have offered contributions.
        noise: The longest update and the noise on what was sent last; None: no noise.
    """

    card: str
    next: str = ""
    label: str = ""
    learning: bool = False
    before: int | None = None
    invitation: str = ""
    details: str = ""
    unnamed: bool = False
    helped: str = ""
    measuring: bool = False
    offered: bool = False
    noise: tuple[float, float] | None = None


CHANGED = "What would leave has changed: look at it again."


class Choice(ConfigError):
    """An error after which there is something else that one can do.

    Attributes:
        instead: What the one button offers then: see `Pressed`.
    """

    def __init__(self, text: str, instead: str):
        super().__init__(text)
        self.instead = instead


@dataclass(frozen=True)
class Pressed:
    """What came of pressing a button.

    Attributes:
        text: What was done or is wrong, in a sentence.
        wrong: Whether something is wrong.
        leaving: HTML: what would leave; None leaves what is there.
        shown: The digest of it, which sending asks for.
        instead: What the one button offers now instead of what the round asks for:
            `accept` after doubts, `offer` where one may not write.
        remedy: What mends what is wrong; see `remedies`.
    """

    text: str = ""
    wrong: bool = False
    leaving: str | None = ""
    shown: str = ""
    instead: str = ""
    remedy: str = ""


def tried(act: Callable[[], str | tuple[str, str]]) -> Pressed:
    """What came of doing something; an error is a part of the answer.

    Args:
        act: It returns what was done, or HTML of what would leave and its digest.
    """
    try:
        done = act()
        return Pressed(done) if isinstance(done, str) else Pressed("", False, *done)
    except Exception as error:
        instead = error.instead if isinstance(error, Choice) else ""
        text = explain(error)
        remedy = "" if instead else remedies.of(error, text, IN_A_ROUND)
        return Pressed(text, True, instead=instead, remedy=remedy)


class ShareActions:
    """What the Share tab does.

    Args:
        folder: Holds the runs.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._seen: dict[str, tuple[float, dict[str, Any]]] = {}
        self._quiet: dict[str, tuple[float, float]] = {}
        self._worker = Worker()
        weakref.finalize(self, self._worker.close)

    def _on_desk(self, act: Callable[..., T], *given: Any) -> T:
        """Do it on one thread of our own, one after the other.

        MLX's streams belong to the thread that made them, and the page's threads come
        and go.

        Raises:
            Choice: Where a person can accept what cannot be verified, or offer what
                may not be written.
            ConfigError: For every other error of a federation, in the page's words.
        """
        try:
            return self._worker.call(lambda: act(*given))
        except Untrusted as error:
            raise Choice(sharing.explained(error), "accept") from error
        except NotAllowed as error:
            raise Choice(sharing.explained(error), "offer") from error
        except FederationError as error:
            raise ConfigError(sharing.explained(error)) from error

    def press(
        self,
        run: Any,
        act: Any,
        name: Any,
        steps: Any,
        shown: Any,
        noise: PrivacyOptions | None = None,
    ) -> Pressed:
        """Do what the one button offers; errors are part of the answer.

        Args:
            run: The name of the run.
            act: What it offers: the `next` of a `View`, or what `Pressed` says.
            name: The name in the federation, for a run that has none yet.
            steps: How long to learn.
            shown: The digest of what was shown, where something was.
            noise: Differential privacy of what is sent; None: as it was before.
        """
        if act == "send" and not shown:
            return tried(lambda: self.leaving(run, name, noise))
        acts: dict[Any, Callable[[], str | tuple[str, str]]] = {
            "get": lambda: self.get(run),
            "accept": lambda: self.get(run, accept=True),
            "learn": lambda: self.learn(run, steps),
            "send": lambda: self.send(run, name, shown, noise),
            "offer": lambda: self.send(run, name, shown, noise, offer=True),
            "close": lambda: self.close(run),
        }
        came = tried(acts.get(act, lambda: ""))
        if not came.wrong or came.text == CHANGED:  # then it is to be looked at again
            return came
        if came.instead == "offer" and act != "send":
            came = dataclasses.replace(came, instead="")
        return dataclasses.replace(came, leaving=None, shown=shown)

    def look(self, run: Any, again: bool = False, remote: bool = True) -> View:
        """How a run stands in its federation.

        Args:
            run: Its name.
            again: Whether to ask the federation although it was asked just now.
            remote: Whether to ask one that is not a folder; else what was seen before
                is shown.
        """
        try:
            path = runs.find(self.folder, run)
            record = None if path is None else membership.read(path)
            if path is None or record is None:
                return View("" if path is not None else render.note(NOTHING))
            overview = self._overview(record.uri, again, remote)
            if overview is not None:
                return _view(path, overview)
        except Exception as error:
            return View(render.problem(explain(error)), "look", "Try again")
        known = f"“{path.name}” takes part in {record.uri}."
        return View(render.note(known), "look", "See how it stands")

    def _overview(self, uri: str, again: bool, remote: bool) -> dict[str, Any] | None:
        """How a federation stands, from memory where that is fresh enough."""
        seen, known = self._seen.get(uri, (-math.inf, None))
        fresh = FRESH if "://" in uri else FRESH_FOLDER
        if not remote and "://" in uri:
            return known
        if known is not None and not again and time.monotonic() - seen < fresh:
            return known
        return self._ask(uri, PATIENCE)

    def _ask(self, uri: str, patience: float) -> dict[str, Any]:
        found = self._on_desk(api.overview, opened(uri, patience))
        self._seen[uri] = time.monotonic(), found
        return found

    def ask_quietly(self, run: Any) -> None:
        """Look at a federation on the Hub by ourselves, so that `look` knows it.

        However many pages ask, the federation is asked once in `FRESH` seconds, and
        less and less often while it cannot be reached. Nothing is told then.
        """
        with contextlib.suppress(ComigsError):
            path = runs.find(self.folder, run)
            record = None if path is None else membership.read(path)
            if record is None or "://" not in record.uri:
                return
            wait, due = self._quiet.get(record.uri, (FRESH, -math.inf))
            if time.monotonic() < due:
                return
            # Whatever comes of it, nobody else asks meanwhile.
            later = min(2 * wait, SELDOM)
            self._quiet[record.uri] = later, time.monotonic() + wait
            self._ask(record.uri, QUIET_PATIENCE)
            self._quiet[record.uri] = FRESH, time.monotonic() + FRESH

    def invited(self, text: Any) -> tuple[str, str]:
        """The address and the HTML of an invitation; nothing is asked of the address.

        Raises:
            FederationError: If it is none.
        """
        one = invitation.parse(str(text or ""))
        return one.uri, sharing.invited(one)

    def would_join(self, run: Any) -> str:
        """What joining changes for a run, in a sentence; empty where it cannot."""
        if (path := runs.find(self.folder, run)) is None:
            return ""
        step = listing.entry(path).step or 0
        if step == 0:
            return f"“{path.name}” gets what everybody has made together."
        return (
            f"“{path.name}” gets what everybody has made together in place of its own "
            f"half, learnt in {step:,} steps. That one is kept on this machine as "
            "“before joining”: one click brings it back."
        )

    def join(
        self, run: Any, text: Any, uri: Any, name: Any, accept: bool = False
    ) -> str:
        """Take part in a federation; returns a sentence.

        Args:
            run: The name of the run.
            text: The invitation; empty for an address without one.
            uri: The address of the federation on this machine.
            name: Of the participant.
            accept: Whether to take what cannot be verified.

        Raises:
            ComigsError: If it is not the one of the invitation, or does not take them.
        """
        folder, where, who = self._run(run), opened(uri), participant(name)
        if str(text or "").strip():
            one = dataclasses.replace(invitation.parse(str(text)), uri=where.uri)
            seen = self._on_desk(api.manifest, where)
            self._on_desk(one.check, seen)
        self._on_desk(_pull, folder, where, who, accept)
        self._outdate(membership.place(where.uri))
        return f"“{folder.name}” takes part now."

    def founding(self, run: Any, form: Mapping[str, Any]) -> tuple[str, str]:
        """What making a federation would put there: HTML, and a digest for `found`."""
        values = self._on_desk(api.founding, self._form(run, form))
        secrets = _secrets(self._run(run))
        what = "What everyone starts from, as yours has learnt it until now,"
        return secrets + sharing.would_leave(values, what), digest(values)

    def found(self, run: Any, form: Mapping[str, Any], shown: Any) -> str:
        """Make a federation of exactly what was shown; returns a sentence.

        Raises:
            ComigsError: If it was not shown, has changed since, or cannot be made.
        """
        config, who = self._form(run, form), participant(form.get("participant"))
        if digest(self._on_desk(api.founding, config)) != shown:
            raise ConfigError(CHANGED)
        self._on_desk(api.found, config, opened(config.federation), who)
        return "Your federation is there. Send your friends the invitation below."

    def _form(self, run: Any, form: Mapping[str, Any]) -> InitConfig:
        """The form of a new federation as options, checked."""
        folder = self._run(run)
        uri = address(form.get("place"), form.get("address"))
        allow = str(form.get("people") or "") if form.get("who") == "named" else None
        if allow is not None:
            own = participant(form.get("participant"))
            given = [participant(one) for one in allow.split(",") if one.strip()]
            allow = ",".join(dict.fromkeys([own, *given]))
        values = {
            "federation": uri,
            "run": str(folder),
            "quorum": int(form.get("quorum") or 2),
            "deadline": form.get("deadline") or None,
            "allow": allow,
            "license": str(form.get("licence") or "").strip() or None,
            "private": bool(form.get("private")),
        }
        return from_dict(InitConfig, values)

    def leaving(
        self, run: Any, name: Any, noise: PrivacyOptions | None = None
    ) -> tuple[str, str]:
        """What sending would send: HTML, and a digest that `send` asks for.

        Args:
            run: The name of the run.
            name: The name in the federation, for a run that has none yet.
            noise: Differential privacy; None: as it was before.

        Raises:
            ComigsError: If there is nothing to send.
        """
        folder, where = self._run(run), self._place(run)
        given = (folder, where, self._name(folder, name), noise)
        values = self._on_desk(api.leaving, *given)
        if (steps := _counted(values)) == 0:
            raise ConfigError(IDLE)
        secrets = _secrets(folder)
        learnt = "" if steps is None else f" in {steps:,} steps"
        what = f"What the half that you share has learnt{learnt}"
        return secrets + sharing.would_leave(values, what), digest(values)

    def send(
        self,
        run: Any,
        name: Any,
        shown: Any,
        noise: PrivacyOptions | None = None,
        offer: bool = False,
    ) -> str:
        """Send exactly what was shown; returns a sentence.

        Args:
            run: The name of the run.
            name: The name in the federation, for a run that has none yet.
            shown: The digest of what was shown.
            noise: Differential privacy; None: as it was before.
            offer: Whether to offer it to those who may write, instead of writing it.

        Raises:
            ComigsError: If it was not shown, or has changed since.
        """
        folder, where = self._run(run), self._place(run)
        who = self._name(folder, name)
        if digest(self._on_desk(api.leaving, folder, where, who, noise)) != shown:
            raise ConfigError(CHANGED)
        if offer:
            act = functools.partial(api.push, propose=True)
            url = self._on_desk(act, folder, where, who, noise)["url"]
            return f"Offered to the owner, who takes it in: {url}"
        result = self._on_desk(api.push, folder, where, who, noise)
        text = f"Sent to round {result['round']} as {result['participant']}."
        return text + (" The round is finished now." if result.get("closed") else "")

    def get(self, run: Any, accept: bool = False) -> str:
        """Fetch the newest generalist into a run; returns a sentence."""
        folder = self._run(run)
        changed = self._on_desk(_pull, folder, self._place(run), None, accept)
        return (
            f"“{folder.name}” {'has the newest now' if changed else 'is up to date'}."
        )

    def learn(self, run: Any, steps: Any) -> str:
        """Go on training a run on its own text; returns a sentence.

        Raises:
            ComigsError: If it cannot be resumed, or learns already.
        """
        folder = self._run(run)
        count = int(steps or STEPS)
        if count < 1:
            raise ConfigError("Learn in one step or more.")
        total = {"steps": (listing.entry(folder).step or 0) + count}
        process.start(folder, {"resume": True, **({} if _shares(folder) else total)})
        return f"“{folder.name}” is learning now."

    def time(self, run: Any, steps: Any) -> str:
        """How long so many steps take, by what was measured here; empty: not known."""
        try:
            path = runs.find(self.folder, run)
            if path is None or not steps or steps < 1:
                return ""
            saved = read_yaml(path / "config.yaml")
            known = {name: saved[name] for name in SPEED if name in saved}
            config = from_dict(TrainConfig, {**known, "steps": int(steps)})
            paths = [entry.path for entry in runs.entries(self.folder)]
            seconds, _ = estimate.seconds(config, [path])
            if seconds is None:
                seconds, _ = estimate.seconds(config, paths)
        except ComigsError:
            return ""
        return "" if seconds is None else f"about {render.roughly(seconds)}"

    def stop(self, run: Any) -> str:
        """Have a run saved and ended; returns a sentence."""
        process.stop(self._run(run))
        return "It stops after this step. What it has learnt is saved."

    def close(self, run: Any) -> str:
        """Take in what is offered, and finish the round where it is due."""
        done = self._on_desk(api.close, self._place(run))
        told = [words.page(status.proposal(one).strip()) for one in done.proposals]
        end = f"Round {done.round} {'is finished' if done.closed else 'is not due yet'}"
        return " ".join(f"{one[:1].upper()}{one[1:]}." for one in [*told, end])

    def roll_back(self, run: Any, number: Any) -> str:
        """Go back to an earlier generalist; returns a sentence."""
        folder = self._run(run)
        names = self.kept_as(run)
        if number not in names:
            raise ConfigError("Choose one that is kept on this machine.")
        self._on_desk(api.roll_back, folder, number)
        return (
            f"“{folder.name}” has again what it had {names[number]}. Get the newest "
            "brings everyone's back."
        )

    def kept_as(self, run: Any) -> dict[int, str]:
        """Each generalist kept on this machine: own ones below 0, then rounds."""
        path = runs.find(self.folder, run)
        return {} if path is None else kept_as(path)

    def measure(self, run: Any) -> str:
        """Begin to measure whether sharing has helped, or stop; returns a sentence."""
        folder = self._run(run)
        if background.measured(folder).running:
            background.stop(folder)
            return "Stopped. What was measured before stays."
        background.start(folder)
        return ""

    def _run(self, name: Any) -> Path:
        path = runs.find(self.folder, name)
        if path is None:
            raise ConfigError(NOTHING)
        return path

    def _place(self, run: Any) -> Exchange:
        """The exchange of the federation that a run takes part in."""
        record = membership.read(self._run(run))
        if record is None:
            raise ConfigError("Join a federation first, or create one.")
        self._outdate(record.uri)
        return opened(record.uri)

    def _outdate(self, uri: str) -> None:
        """Have a federation that is about to change be asked again."""
        if uri in self._seen:
            self._seen[uri] = -math.inf, self._seen[uri][1]

    @staticmethod
    def _name(folder: Path, name: Any) -> str | None:
        """The name to send under: the one that was used before, or a given one."""
        record = membership.read(folder)
        known = record is not None and record.participant is not None
        return None if known else participant(name)


def kept_as(folder: Path) -> dict[int, str]:
    """Each generalist that a run keeps: number -> when it had it."""
    return {one.number: sharing.kept(one) for one in api.kept_all(folder)}


def _pull(folder: Path, where: Exchange, name: str | None, accept: bool) -> bool:
    """Fetch the newest generalist; returns whether anything changed.

    A run that mixed its own generalists, in a terminal, goes on to do so.
    """
    record = membership.read(folder)
    known = record is not None and record.uri == membership.place(where.uri)
    how = record.personal if record is not None and known else None
    act = functools.partial(api.pull, accept=accept, personal=how)
    return act(folder, where, name).changed


def _view(path: Path, overview: dict[str, Any]) -> View:
    """The view of a run in a federation that has just been looked at."""
    state = process.state(path)
    found = api.participant_status(path, overview, listing.entry(path).step or 0)
    what = sharing.does(found, path.name, state.running, _shares(path))
    shown = sharing.card(found, overview, what, state.running, time.time())
    if state.running and state.progress is not None:
        done, total = state.progress
        shown += render.bar(done, total, f"{done} of {total} steps{_left(state)}")
    elif state.problem is not None and found.next == "learn":
        shown += render.problem(words.page(state.problem))
    agreed, uri = overview["manifest"], membership.place(overview["uri"])
    sender = found.name or agreed["founder"]
    measured = background.measured(path)
    line = Invitation(uri, agreed["base_model"]["id"], sender, agreed["id"])
    return View(
        shown,
        found.next,
        "Learning" if state.running else sharing.LABELS[found.next],
        state.running,
        api.before_joining(path),
        str(line),
        sharing.details(overview) + sharing.by_round(api.history(path)),
        found.joined and found.name is None,
        helped.drawn(measured, kept_as(path), path.name),
        measured.running,
        any(one["accepted"] for one in overview["proposals"]),
        _noise(path),
    )


def _noise(path: Path) -> tuple[float, float] | None:
    """The longest update and the noise that a run sends with; None for no noise."""
    record = membership.read(path)
    if record is None or record.privacy is None:
        return None
    return record.privacy.clip, record.privacy.noise


def private(chosen: Any, clip: Any, noise: Any) -> PrivacyOptions | None:
    """The form of differential privacy as options; None where it is not chosen.

    Args:
        chosen: Whether there is to be noise.
        clip: The length to which an update is cut.
        noise: Its standard deviation, in units of that length.

    Raises:
        ConfigError: If a number cannot be.
    """
    if not chosen:
        return None
    # Widgets give whole numbers as such, and what is kept of a draw has decimals.
    options = PrivacyOptions(float(clip or 0), float(noise or 0))
    if list(options.problems()):
        raise ConfigError("Longest change and noise are numbers above 0.")
    return options


def _secrets(folder: Path) -> str:
    """On how many secrets a run was trained: HTML."""
    text = api.trained_secrets(folder)
    return render.note(f"{text[:1].upper()}{text[1:]}.")


def _left(state: Any) -> str:
    eta = state.eta_seconds
    return "" if eta is None else f", {render.duration(eta)} left"


def _shares(folder: Path) -> bool:
    """Whether a run gets and sends by itself while it is trained."""
    return read_yaml(folder / "config.yaml").get("federation") is not None


IDLE = (
    "There is nothing to send: nothing has been learnt since the newest was fetched. "
    "Learn on it first."
)
"""What is said instead of offering a contribution that has learnt nothing."""


def opened(uri: Any, patience: float = PATIENCE) -> Exchange:
    """The exchange of a federation; nothing is asked yet.

    Args:
        uri: Its address.
        patience: Seconds to go on trying for.

    Raises:
        ComigsError: If nothing is given, or it is no address.
    """
    text = str(uri or "").strip()
    if not text:
        raise ConfigError("Say where the federation is: hf://owner/name, or a folder.")
    return open_exchange(text, patience=patience)


def address(place: Any, text: Any) -> str:
    """The address of a new federation: of a folder, or of a repository on the Hub."""
    given = str(text or "").strip()
    if not given:
        raise ConfigError("Say where it is to be: a folder, or owner/name on the Hub.")
    if place == "hub" and "://" not in given:
        return f"hf://{given}"
    return given


def participant(name: Any) -> str:
    """A participant's name: "Ann Lee" is ann-lee.

    Raises:
        ConfigError: If nothing is given, or it cannot be one.
    """
    text = "-".join(str(name or "").lower().split())
    if not text:
        raise ConfigError("Say who you are: your name in the federation.")
    if name_check(text) is not None:
        raise ConfigError(
            "Your name in the federation has letters from a to z, digits and -, and no "
            "more than 39 of them."
        )
    return text


def digest(values: Mapping[str, Any]) -> str:
    """A short name of exactly these values, whenever they are made."""
    timeless = {k: v for k, v in values.items() if k != "created"}
    text = json.dumps(timeless, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _counted(values: Mapping[str, Any]) -> Any:
    """The training steps behind a contribution; None where they are not told."""
    counters = values.get("contribution.json", {}).get("counters", {})
    return counters.get("steps") if isinstance(counters, Mapping) else None
