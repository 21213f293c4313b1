"""Widgets of the Share tab: found or join a federation, or the round and one button."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gradio as gr

from comigs_mlx.errors import ConfigError

from .. import render, sharing
from ..actions.share import STEPS, Pressed, ShareActions, View, private, tried
from ..frame import Frame
from .parts import QUIET, html, problem_html, with_warnings

WHAT_IT_IS = (
    "A federation is a group of people who let their models learn from one another. "
    "Each shares one half of theirs, which is averaged over everybody; the other half, "
    "the router and every file stay on this machine."
)

PLACES = [("A folder that we share", "folder"), ("The Hugging Face Hub", "hub")]
WRITERS = [("Everybody who can reach it", "all"), ("These people alone", "named")]
DEADLINES = [("Never", 0), ("A day", 86400), ("Three days", 259200), ("A week", 604800)]
LICENCES = [
    ("As the base model's", ""),
    *((one, one) for one in ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0")),
    *((one, one) for one in ("cc-by-nc-4.0", "cc0-1.0")),
]

EXAMPLES = {"folder": "~/Dropbox/our-federation", "hub": "your-name/our-federation"}

INSTEAD = {"accept": "I have asked: accept it", "offer": "Offer it to the owner"}
"""What the one button says where it does something else than the round asks for."""

QUIETLY = 60.0
"""Seconds between two looks at whether a federation on the Hub is to be asked again."""

IN_SIGHT = "(run) => (document.hidden || window.location.hash !== '#share' ? '' : run)"
"""The run, only while somebody sees the tab: without one nothing is asked."""

EACH = 3.0
"""Seconds between two looks at what has changed on this machine."""


def build(actions: ShareActions, frame: Frame) -> dict[str, Any]:
    """Put the Share tab on the page.

    Args:
        actions: What its buttons do.
        frame: The page around it.

    Returns:
        The widgets whose values outlive a reload, by name.
    """
    with gr.Column(elem_id="share", elem_classes="cm-share"):
        place = _Round(actions, frame)
        with gr.Column(elem_id="share-start") as place.start:
            gr.Markdown(WHAT_IT_IS, elem_classes="cm-lead")
            place.note = html("share-note")
            with gr.Row(elem_classes="cm-ways"):
                with gr.Column(elem_classes="cm-choice", min_width=300):
                    _create(actions, frame, place)
                with gr.Column(elem_classes="cm-choice", min_width=300):
                    kept = _join(actions, frame, place)
        place.connect()
    return kept


class _Round:
    """The round and its one button, and all that is drawn anew together."""

    def __init__(self, actions: ShareActions, frame: Frame):
        self.actions, self.frame = actions, frame
        self.known, self.act = gr.State(None), gr.State("")
        self.digest = gr.State("")
        self.start: gr.Column
        self.note: gr.HTML
        with gr.Column(elem_id="share-round", visible=False) as self.column:
            self.card = html("round")
            with gr.Row(elem_classes="cm-one"):
                self.next = gr.Button(
                    "", variant="primary", elem_id="next", size="lg", scale=0
                )
                self.steps = gr.Number(
                    STEPS,
                    label="Steps",
                    precision=0,
                    minimum=1,
                    elem_id="steps",
                    min_width=90,
                    scale=0,
                    visible=False,
                )
                self.time = gr.HTML(
                    "", elem_id="share-time", apply_default_css=False, visible=False
                )
                self.stop = gr.Button(
                    "Stop", elem_id="stop-learning", scale=0, visible=False
                )
            self.name = gr.Textbox(
                label="Your name in it", elem_id="own-name", visible=False
            )
            with gr.Accordion(
                "Noise on what leaves", open=False, elem_id="noise", visible=False
            ) as self.noise:
                self.noisy = self._noise()
        self.done = html("done")
        with gr.Column(elem_id="share-more", visible=False) as self.more:
            self.leaving = html("leaving")
            with gr.Row(elem_classes="cm-before"):
                self.before = gr.Button(
                    "Go back to before joining",
                    elem_id="before",
                    size="sm",
                    min_width=220,
                    scale=0,
                    visible=False,
                )
            self._further()

    def _noise(self) -> list[Any]:
        """Differential privacy: whether, and how much."""
        gr.HTML(render.note(sharing.NOISE), apply_default_css=False)
        chosen = gr.Checkbox(label="Add noise before it leaves", elem_id="noisy")
        with gr.Row():
            clip = gr.Number(
                1.0,
                label="Longest change",
                info="All that was learnt, as one vector, is cut to this length.",
                minimum=0,
                elem_id="clip",
            )
            amount = gr.Number(
                1.0,
                label="Noise",
                info="In units of that length: 1 is some, 4 is much.",
                minimum=0,
                elem_id="noise-amount",
            )
        return [chosen, clip, amount]

    def _further(self) -> None:
        """What is folded below the round."""
        with gr.Accordion("Invite somebody", open=False, elem_id="invite"):
            self.invitation = gr.Textbox(
                label="Invitation: send this line to a friend",
                interactive=False,
                elem_id="invitation",
                buttons=["copy"],
                lines=2,
            )
        with gr.Column(elem_classes="cm-helped", elem_id="helped"):
            gr.Markdown("### Did it help me?")
            self.helped = gr.HTML(
                "",
                elem_id="history",
                apply_default_css=False,
                js_on_load="window.comigs.goingBack({element, trigger})",
            )
            self.measure = gr.Button(
                "Find out", size="sm", scale=0, min_width=160, elem_id="measure"
            )
        with gr.Accordion("All about this federation", open=False):
            self.details = html("federation")
            self.take = gr.Button(
                "Take in what is offered",
                elem_id="take-in",
                size="sm",
                scale=0,
                visible=False,
            )
            self.other = gr.Button(
                "Join or create another", elem_id="another", size="sm", scale=0
            )

    def connect(self) -> None:
        """Have everything follow the run, the buttons, and what changes by itself."""
        frame, run = self.frame, self.frame.run
        drawn = self.drawn
        quiet = {**QUIET, "trigger_mode": "always_last"}
        frame.page.load(self._look, run, drawn, **quiet)
        run.change(self._look, run, drawn, **quiet)
        frame.tabs.select(self._opened, run, drawn, **QUIET)
        given = [run, self.act, self.name, self.steps, self.digest, *self.noisy]
        working = {**QUIET, "show_progress": "minimal", "show_progress_on": [self.done]}
        self.next.click(self._press, given, drawn, **working)
        self.stop.click(self._told(self.actions.stop), run, drawn, **working)
        self.before.click(self._before, [run, self.known], drawn, **working)
        self.helped.submit(self._back, run, drawn, **working)
        self.measure.click(self._told(self.actions.measure), run, drawn, **working)
        self.take.click(self._told(self.actions.close), run, drawn, **working)
        self.other.click(lambda: gr.update(visible=True), None, self.start, **QUIET)
        gr.Timer(EACH).tick(self._tick, [run, self.known], drawn, **QUIET)
        gr.Timer(QUIETLY).tick(
            self.actions.ask_quietly, run, None, js=IN_SIGHT, **QUIET
        )
        for box in self.noisy:  # what was shown is not what would leave any more
            box.input(self._look, run, drawn, **QUIET)
        gr.on(
            [self.steps.change, run.change, self.act.change],
            self._takes,
            [run, self.steps],
            self.time,
            **QUIET,
        )

    @property
    def drawn(self) -> list[Any]:
        """Everything that `draw` gives, in its order."""
        return [
            *(self.start, self.note, self.column, self.more, self.card, self.next),
            *(self.act, self.steps, self.time, self.stop, self.name, self.before),
            *(self.helped, self.measure),
            *(self.invitation, self.details, self.take, self.known),
            *(self.noise, *self.noisy),
            *(self.done, self.leaving, self.digest),
        ]

    def draw(self, view: View, came: Pressed | None = None) -> list[Any]:
        """The tab after something happened.

        Args:
            view: How it stands now.
            came: What came of it; None leaves what was told and shown before.
        """
        there, learning = bool(view.next), view.learning
        shown = came.shown if came and view.next == "send" else ""
        act = (came and came.instead) or view.next
        label = INSTEAD.get(act, "Send" if shown else view.label)
        return [
            gr.update(visible=not there),
            "" if there else view.card,
            gr.update(visible=there),
            gr.update(visible=there),
            view.card if there else "",
            gr.update(value=label, interactive=not learning),
            act,
            gr.update(visible=act == "learn" and not learning),
            gr.update(visible=act == "learn" and not learning),
            gr.update(visible=learning),
            gr.update(visible=view.unnamed),
            gr.update(visible=view.before is not None),
            view.helped,
            "Stop" if view.measuring else "Find out",
            view.invitation,
            view.details,
            gr.update(visible=view.offered),
            asdict(view),
            gr.update(visible=view.next in ("learn", "send", "get")),
            *_noise_of(view),
            *(_came(came) if came else [gr.skip()] * 3),
        ]

    def _look(self, run: Any) -> Any:
        return self.draw(self.actions.look(run, remote=False), Pressed())

    def _opened(self, run: Any, event: gr.SelectData) -> Any:
        return self.draw(self.actions.look(run)) if _is_ours(event) else gr.skip()

    def _takes(self, run: Any, steps: Any) -> str:
        return render.note(self.actions.time(run, steps))

    def _press(
        self, run: Any, act: Any, name: Any, steps: Any, shown: Any, *noise: Any
    ) -> Any:
        try:
            chosen = private(*noise)
        except ConfigError as error:
            came = Pressed(str(error), True)
        else:
            came = self.actions.press(run, act, name, steps, shown, chosen)
        return self.draw(self.actions.look(run, again=True), came)

    def _before(self, run: Any, known: Any) -> Any:
        return self._told(self.actions.roll_back)(run, (known or {}).get("before"))

    def _back(self, run: Any, event: gr.EventData) -> Any:
        return self._told(self.actions.roll_back)(run, event.number)

    def _told(self, act: Any) -> Any:
        """`act` with what it says, and the tab as it is then."""

        def press(run: Any, *given: Any) -> Any:
            came = tried(lambda: act(run, *given))
            return self.draw(self.actions.look(run, again=True), came)

        return press

    def _tick(self, run: Any, known: Any) -> Any:
        """What has changed by itself; what was told and shown stays where it can.

        A button may be under way meanwhile, so that nothing here relies on what is
        shown but on how the run stands.
        """
        view = self.actions.look(run, remote=False)
        if asdict(view) == known:
            return gr.skip()
        drawn = self.draw(view)
        if view.next != "send":
            drawn[-2:] = ["", ""]
        elif sharing.may_offer(known):
            drawn[self.drawn.index(self.next)] = gr.skip()  # it may offer to send
        return drawn


def _noise_of(view: View) -> list[Any]:
    """The form of differential privacy: once a run has used it, it stays on."""
    if view.noise is None:
        return [gr.update(interactive=True)] + [gr.skip()] * 2
    clip, amount = view.noise
    return [gr.update(value=True, interactive=False), clip, amount]


def _is_ours(event: gr.SelectData) -> bool:
    return bool(event.selected) and event.value == "Share"


def _came(came: Pressed) -> list[Any]:
    """What was done, what would leave, and its digest."""
    leaving = gr.skip() if came.leaving is None else came.leaving
    if came.wrong:
        return [render.problem(came.text, came.remedy), leaving, came.shown]
    return [render.note(came.text) if came.text else "", leaving, came.shown]


FORM = (
    *("place", "address", "participant", "quorum", "who", "people", "deadline"),
    *("licence", "private"),
)
"""What the form of a new federation is asked for, in the order of its widgets."""


def _form() -> list[Any]:
    """The widgets of `FORM`."""
    where = gr.Radio(PLACES, value="folder", label="Where it lies", elem_id="place")
    address = gr.Textbox(
        label="Folder", placeholder=EXAMPLES["folder"], elem_id="new-address"
    )
    name = gr.Textbox(label="Your name in it", elem_id="new-name")
    quorum = gr.Slider(
        1, 20, 2, step=1, label="People who complete a round", elem_id="quorum"
    )
    with gr.Accordion("Who may take part, deadline, licence", open=False):
        who = gr.Radio(WRITERS, value="all", label="Who may take part", elem_id="who")
        people = gr.Textbox(
            label="Their names, with commas", visible=False, elem_id="people"
        )
        deadline = gr.Dropdown(
            DEADLINES, value=0, label="Go on without the others after"
        )
        licence = gr.Dropdown(
            LICENCES,
            value="",
            label="Licence of what you make together",
            allow_custom_value=True,
        )
        private = gr.Checkbox(label="Keep it private on the Hub", visible=False)
    where.change(_of_place, where, [address, private], **QUIET)
    who.change(lambda kind: gr.update(visible=kind == "named"), who, people, **QUIET)
    return [where, address, name, quorum, who, people, deadline, licence, private]


def _of_place(kind: Any) -> Any:
    """What the form asks for on the Hub, or of a folder."""
    label = "Repository" if kind == "hub" else "Folder"
    box = gr.update(label=label, placeholder=EXAMPLES[kind])
    return box, gr.update(visible=kind == "hub")


def _create(actions: ShareActions, frame: Frame, place: _Round) -> None:
    """The card that makes a federation."""
    gr.Markdown("### Create a federation")
    boxes = _form()
    look = gr.Button("Show what leaves", variant="primary", elem_id="look-new")
    leaving, digest = html("leaving-new"), gr.State("")
    make = gr.Button("Create it", variant="primary", visible=False, elem_id="create")
    ours, run = [leaving, digest, look, make], frame.run

    def preview(run: Any, *given: Any) -> Any:
        shown = actions.founding(run, dict(zip(FORM, given, strict=True)))
        return *shown, gr.update(visible=False), gr.update(visible=True)

    def create(run: Any, shown: Any, *given: Any) -> Any:
        text = actions.found(run, dict(zip(FORM, given, strict=True)), shown)
        drawn = place.draw(actions.look(run, again=True), Pressed(text))
        return [*drawn, *forget()]

    def forget() -> Any:
        return "", "", gr.update(visible=True), gr.update(visible=False)

    working = {**QUIET, "show_progress": "minimal", "show_progress_on": [leaving]}
    look.click(with_warnings(preview), [run, *boxes], ours, **working)
    given, drawn = [run, digest, *boxes], [*place.drawn, *ours]
    make.click(with_warnings(create), given, drawn, **working)
    for box in boxes:
        box.input(forget, None, ours, **QUIET)
    run.change(forget, None, ours, **QUIET)


def _join(actions: ShareActions, frame: Frame, place: _Round) -> dict[str, Any]:
    """The card that takes part in a federation of somebody else."""
    gr.Markdown("### Join one")
    text = gr.Textbox(
        label="Invitation",
        lines=3,
        max_lines=4,
        elem_id="paste",
        placeholder="Paste the line that begins with “comigs invitation to”",
    )
    told = html("invited")
    uri = gr.Textbox(
        label="Where it is",
        elem_id="uri",
        placeholder="hf://owner/name, or a folder",
        info="Filled in by the invitation. A shared folder may lie elsewhere here.",
    )
    name = gr.Textbox(label="Your name in it", elem_id="participant")
    changes = html("changes")
    join = gr.Button("Join", variant="primary", elem_id="join")

    def read(given: Any) -> Any:
        if not str(given or "").strip():
            return "", gr.skip()
        try:
            found, shown = actions.invited(given)
            return shown, found
        except Exception as error:
            return problem_html(error), gr.skip()

    @with_warnings
    def take_part(run: Any, *given: Any) -> Any:
        done = actions.join(run, *given)
        return place.draw(actions.look(run, again=True), Pressed(done))

    def changed(run: Any) -> str:
        try:
            return render.note(actions.would_join(run))
        except Exception:  # a broken run is told of where it is chosen
            return ""

    text.change(read, text, [told, uri], **QUIET)
    frame.page.load(changed, frame.run, changes, **QUIET)
    frame.run.change(changed, frame.run, changes, **QUIET)
    working = {**QUIET, "show_progress": "minimal", "show_progress_on": [changes]}
    given = [frame.run, text, uri, name]
    join.click(take_part, given, place.drawn, **working)
    return {"federation": uri, "participant": name}
