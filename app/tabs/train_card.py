"""The card of a training: how far it is, what it brought, and what can be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from .. import render
from ..actions.sample import QUESTION, SampleActions
from ..actions.train import TrainActions, TrainingStatus
from ..frame import CHAT, Frame
from .parts import QUIET, html, with_problem_html, with_warnings

EACH = 2.0
"""Seconds between two looks at a training."""


NOTICE = 3.0
"""Seconds between two looks at whether one has ended."""


@dataclass(frozen=True)
class Card:
    """What the tab needs of the card.

    Attributes:
        column: Holds all of it.
        run: The choice of trainings.
        fresh: The button that begins another one.
    """

    column: gr.Column
    run: gr.Dropdown
    fresh: gr.Button


def build(actions: TrainActions, samples: SampleActions, frame: Frame) -> Card:
    """Put the card on the page; it is not seen at first.

    Args:
        actions: What its buttons do.
        samples: Answers before and after.
        frame: The page around it.
    """
    with gr.Column(visible=False, elem_id="training-card") as column:
        with gr.Column(elem_classes="cm-panel-card"):
            state = html("state")
            with gr.Row(elem_classes="cm-buttons"):
                talk = _button("Talk to it", "talk-to-it", variant="primary")
                stop = _button("Stop and save", "stop-training")
                resume = _button("Go on learning", "resume-training")
        with gr.Column(visible=False, elem_id="sample-answers") as sample:
            question, ask, answers = _sample()
        with gr.Accordion("Curves", open=False, elem_id="curves"):
            plots = html("plots")
        with gr.Accordion("Log", open=False, elem_id="training-log"):
            log = html("log-lines")
        run, more, fresh = _foot()
    before, ended = gr.State(TrainingStatus("")), gr.State("")
    shown = [state, plots, log, talk, stop, resume, sample, before, ended]

    @with_warnings
    def follow(name: Any, last: TrainingStatus) -> Any:
        now = actions.standing(name)
        if now == last:
            return [gr.skip()] * len(shown)
        over = last.running and now.ended
        done = str(name) if over else "" if now.running else gr.skip()
        return [*_updates(now), now, done]

    def changed(name: Any) -> Any:
        """Another training is shown: it has not ended just now."""
        now = actions.standing(name)
        return [*_updates(now), now, "", ""]

    def chat(name: Any) -> Any:
        return name, gr.Tabs(selected=CHAT)

    answer = with_problem_html(samples.both)
    stop.click(with_warnings(actions.stop), [run], **QUIET)
    resume.click(with_warnings(actions.resume), [run, more], **QUIET)
    gr.Timer(EACH).tick(follow, [run, before], shown, **QUIET)
    run.change(with_warnings(changed), run, [*shown, answers], **QUIET)
    talk.click(with_warnings(chat), run, [frame.run, frame.tabs], **QUIET)
    told = ask.click(_answering, None, answers, **QUIET)
    told.then(answer, [run, question], answers, **QUIET)

    def at_the_end(name: Any, question: Any) -> Any:
        return answer(name, question) if name else gr.skip()

    ended.change(at_the_end, [ended, question], answers, **QUIET)
    return Card(column, run, fresh)


def announce(actions: TrainActions) -> None:
    """Have the browser tell the end of a training, whichever tab is open.

    It is put on the page outside of the tabs: a timer inside a tab stands still until
    the tab is opened for the first time.
    """
    running = gr.State(None)
    told = gr.HTML("", apply_default_css=False, elem_id="notice")

    def look(before: Any) -> Any:
        now, sentences = actions.ended(before or [])
        if not sentences:
            return gr.skip() if now == before else now, gr.skip()
        return now, f'<p role="status">{render.escape(" ".join(sentences))}</p>'

    show = "() => window.comigs.notices.look()"
    gr.Timer(NOTICE).tick(look, running, [running, told], **QUIET).then(
        None, None, None, js=show
    )


def _foot() -> tuple[gr.Dropdown, gr.Number, gr.Button]:
    """The choice of trainings, the steps to go on to, and the way to another one."""
    with gr.Row(elem_classes="cm-buttons cm-foot"):
        run = gr.Dropdown([], label="Training", elem_id="training", min_width=220)
        more = gr.Number(
            0,
            label="Steps in all when it goes on (0: as planned)",
            precision=0,
            minimum=0,
            elem_id="steps-in-all",
            min_width=220,
        )
    with gr.Row(elem_classes="cm-buttons"):
        return run, more, gr.Button("Teach another one", elem_id="teach-another")


def _answering() -> str:
    return render.note("Answering …")


def _button(text: str, name: str, **options: Any) -> gr.Button:
    return gr.Button(text, elem_id=name, min_width=120, visible=False, **options)


def _sample() -> tuple[gr.Textbox, gr.Button, gr.HTML]:
    """A question, the button that has it answered twice, and the answers."""
    gr.HTML("<h3>Before and after</h3>", apply_default_css=False)
    answers = html("answers")
    with gr.Row(elem_classes="cm-ask"):
        question = gr.Textbox(
            QUESTION,
            label="A question to both",
            max_lines=3,
            scale=4,
            elem_id="sample-question",
        )
        ask = gr.Button("Ask", elem_id="ask-sample", min_width=90, scale=0)
    return question, ask, answers


def _updates(now: TrainingStatus) -> list[Any]:
    """What is seen of a training."""
    idle = not now.running
    return [
        now.card,
        now.curves,
        now.log,
        gr.update(visible=now.usable),
        gr.update(visible=now.running),
        gr.update(visible=idle and bool(now.curves or now.log)),
        gr.update(visible=now.usable and idle),
    ]
