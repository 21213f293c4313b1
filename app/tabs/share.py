"""Widgets of the Share tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..actions.share import ShareActions
from ..frame import Frame
from .parts import QUIET, SLOW, html, with_problem_html, with_warnings

WHAT_LEAVES = (
    "Generalists are averaged over everybody in a federation. No file of yours leaves "
    "this machine, and neither do specialists and routers. What a contribution has "
    "learnt from your text does leave, and can give passages of it away. Each "
    "contribution can be seen by itself by whoever can read the federation, not only "
    "the average. Only differential privacy bounds what it can give away; it is set "
    "when pushing from a terminal (the README says how)."
)


def build(actions: ShareActions, frame: Frame) -> dict[str, Any]:
    """Put the Share tab on the page.

    Args:
        actions: What its buttons do.
        frame: The page around it.

    Returns:
        The widgets whose values outlive a reload, by name.
    """
    run, page = frame.run, frame.page
    gr.Markdown(WHAT_LEAVES)
    with gr.Row():
        uri = gr.Textbox(
            label="Federation", placeholder="hf://owner/name or a folder", elem_id="uri"
        )
        name = gr.Textbox(label="Your name in it", elem_id="participant")
    with gr.Row(elem_classes="cm-buttons"):
        look = gr.Button("Status", variant="primary", elem_id="status", min_width=90)
        pull = gr.Button("Pull", elem_id="pull", min_width=90)
        dry = gr.Button("What would leave", elem_id="dry-run", min_width=90)
        push = gr.Button("Push", interactive=False, elem_id="push", min_width=90)
        close = gr.Button("Close the round", elem_id="close", min_width=90)
    done, state, leaving = html("done"), html("federation"), html("leaving")
    digest = gr.State("")
    plot = html("history")
    with gr.Row():
        kept = gr.Dropdown([], label="Kept generalist", elem_id="kept")
        back = gr.Button("Roll back", elem_id="roll-back", min_width=90)

    @with_warnings
    def show(*chosen: Any) -> Any:
        text, shown_digest = actions.leaving(*chosen)
        return text, shown_digest, gr.update(interactive=True)

    def forget() -> Any:
        return "", "", gr.update(interactive=False)

    def past(name: Any) -> Any:
        try:
            rounds = [(name_of, n) for n, name_of in actions.kept_as(name).items()]
            return actions.history(name), gr.update(choices=rounds, value=None)
        except Exception:  # a broken run is told of where it is chosen
            return "", gr.update(choices=[], value=None)

    chosen = [run, uri, name]
    look.click(with_problem_html(actions.status), [uri], state, **SLOW)
    last_question = gr.State("")

    @with_warnings
    def fetch(name: Any, uri: Any, who: Any, before: Any) -> Any:
        """Pull; where something would be replaced, at the second press alone."""
        question = actions.replaced(name, uri)
        sure = not question or question == before
        text = actions.pull(name, uri, who, sure)
        return text, "" if sure else question

    pull.click(fetch, [*chosen, last_question], [done, last_question], **SLOW).then(
        past, run, [plot, kept], **QUIET
    )
    dry.click(show, chosen, [leaving, digest, push], **SLOW)
    push.click(with_warnings(actions.push), [*chosen, digest], done, **SLOW).then(
        forget, None, [leaving, digest, push], **QUIET
    )
    close.click(with_warnings(actions.close), [uri], done, **SLOW)
    back.click(with_warnings(actions.roll_back), [run, kept], done, **SLOW)
    # Of people only: a list of runs that is filled anew changes nothing that was shown,
    # and push compares what would leave with it once more.
    for box in (uri, name, run):
        box.input(forget, None, [leaving, digest, push], **QUIET)
        box.input(lambda: ("", ""), None, [last_question, done], **QUIET)
    run.change(past, run, [plot, kept], **QUIET)
    page.load(past, run, [plot, kept], **QUIET)
    return {"federation": uri, "participant": name}
