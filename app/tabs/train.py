"""The Train tab: four steps from a text to a training, then how it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from comigs_mlx.errors import ConfigError

from .. import render, words
from ..actions.models import ModelActions, need
from ..actions.sample import SampleActions
from ..actions.train import (
    ALONE,
    OPTIONS,
    SENDING,
    TAKING,
    TrainActions,
    defaults,
    names_of,
    shared,
)
from ..frame import Frame
from ..remedies import Mendable
from . import train_card
from .parts import (
    QUIET,
    SLOW,
    html,
    problem_html,
    warn,
    with_problem_html,
    with_warnings,
)

TEXT, CHECK, MODEL, LEARN = 1, 2, 3, 4
"""The steps."""

EACH = 1.0
"""Seconds between two looks at a download."""

DEFAULTS = {name: default for name, default, _ in defaults()}
"""Of the options on the page."""

WITH_WHOM = [
    ("By myself\nNothing is sent to anybody.", ALONE),
    ("In a federation\nWhat it has learnt is sent after each round.", SENDING),
    ("With a federation's help\nIts part is taken, and nothing is sent.", TAKING),
]

LEAVES = (
    "The base model is the federation's. No file of yours is ever sent; what the "
    "shared part has learnt from your text can be, and can give passages of it away."
)

ASK = "(...given) => { window.comigs.notices.ask(); return given; }"
"""Asks the browser, as somebody presses a button, whether the end may be told."""


announce = train_card.announce


class Steps:
    """The widgets of the four steps, and what they do.

    Args:
        actions: What the tab does.
        model: Base model to begin with.
    """

    def __init__(self, actions: TrainActions, model: str):
        self.actions, self.model = actions, model
        self.models = ModelActions(model, actions.local)
        self.tokens = gr.State(0)
        with gr.Walkthrough(selected=TEXT, elem_id="steps") as self.walk:
            with gr.Step("Your text", id=TEXT):
                self._text()
            with gr.Step("Check", id=CHECK):
                self._check()
            with gr.Step("Model", id=MODEL):
                self._model()
            with gr.Step("Learn", id=LEARN):
                self._learn()
        # What mends an error leads to steps by these: see static/remedies.js. train.css
        # hides them, as Gradio shows again what it hid, with the step around it.
        self.go_text = gr.Button("Text", elem_id="go-text")
        self.go_model = gr.Button("Model", elem_id="go-model")
        self.go_smaller = gr.Button("Smaller", elem_id="go-smaller")
        self._moves()

    def _text(self) -> None:
        gr.HTML(
            "<h2>What should it learn from?</h2><p>Notes, mail, chats, documents, "
            "code: the more, the better. It stays on this machine.</p>",
            apply_default_css=False,
            elem_classes="cm-step-lead",
        )
        self.files = gr.File(
            label="A folder, or files",
            file_count="multiple",
            height=170,
            elem_id="files",
        )
        with gr.Row(elem_classes="cm-buttons"):
            self.folder = gr.UploadButton(
                "Choose a folder", file_count="directory", size="sm", elem_id="folder"
            )
            self.example = gr.Button(
                "Try it with an example text", size="sm", elem_id="example-text"
            )
        self.path = gr.Textbox(
            label="or a folder or file on this machine",
            placeholder="~/Notes",
            elem_id="data-path",
            max_lines=1,
            visible=self.actions.local,
        )
        with gr.Row(elem_classes="cm-moves"):
            self.look = gr.Button("Check the text", variant="primary", elem_id="check")

    def _check(self) -> None:
        self.found = html("found")
        with gr.Column(visible=False, elem_id="who") as self.who:
            self.speakers = gr.CheckboxGroup(
                [], label="Who are you?", elem_id="option-me"
            )
            self.other = gr.Textbox(
                label="Other names or addresses of yours in it",
                placeholder="Ann Weber, ann@example.org",
                elem_id="other-names",
                max_lines=1,
            )
            with gr.Row(elem_classes="cm-buttons"):
                self.me = gr.Button("That is me", variant="primary", elem_id="me")
        self.redact = gr.Checkbox(
            label="Replace passwords, keys and card numbers before anything is learnt",
            visible=False,
            elem_id="option-redact",
        )
        with gr.Row(elem_classes="cm-moves"):
            self.to_text = gr.Button("Back", elem_id="back-to-text")
            self.to_model = gr.Button(
                "Choose a model",
                variant="primary",
                interactive=False,
                elem_id="to-model",
            )

    def _model(self) -> None:
        gr.HTML(
            "<h2>Which model should learn it?</h2><p>A larger one writes better, and "
            "takes more memory and time.</p>",
            apply_default_css=False,
            elem_classes="cm-step-lead",
        )
        self.base = gr.Radio([], label="Model", elem_id="base", elem_classes="cm-cards")
        with gr.Accordion("Another model", open=False, elem_id="another"):
            self.named = gr.Textbox(
                label="Name on the Hugging Face Hub, or a folder on this machine",
                placeholder="mlx-community/Llama-3.2-1B-Instruct-4bit",
                elem_id="named-model",
                max_lines=1,
            )
            self.find = gr.Button("Look it up", size="sm", elem_id="find-model")
        self.fetching = html("fetching")
        with gr.Row(elem_classes="cm-buttons"):
            self.fetch = gr.Button("Download it", visible=False, elem_id="fetch")
            self.cancel = gr.Button(
                "Stop the download", visible=False, elem_id="cancel-fetch"
            )
        self.clock = gr.Timer(EACH, active=False)
        with gr.Row(elem_classes="cm-moves"):
            self.to_check = gr.Button("Back", elem_id="back-to-check")
            self.to_learn = gr.Button(
                "Choose how long", variant="primary", elem_id="to-learn"
            )

    def _learn(self) -> None:
        self.name = gr.Textbox(
            label="Name of what it becomes",
            value="mine",
            elem_id="run-name",
            max_lines=1,
        )
        self.plan = gr.Radio(
            [], label="How long", elem_id="plan", elem_classes="cm-cards cm-three"
        )
        with gr.Accordion("With others", open=False, elem_id="with-others"):
            self.how = gr.Radio(
                WITH_WHOM,
                value=ALONE,
                label="With whom",
                elem_id="with-whom",
                elem_classes="cm-cards",
            )
            with gr.Column(visible=False) as self.shared:
                gr.HTML(render.note(LEAVES), apply_default_css=False)
                self.uri = gr.Textbox(
                    label="Federation",
                    placeholder="hf://owner/name, or a folder",
                    elem_id="learn-federation",
                    max_lines=1,
                )
                self.participant = gr.Textbox(
                    label="Your name in it", elem_id="learn-participant", max_lines=1
                )
        with gr.Accordion("More options", open=False, elem_id="more-options"):
            self.options = _options()
        self.cost = html("cost")
        with gr.Row(elem_classes="cm-moves"):
            self.back = gr.Button("Back", elem_id="back-to-model")
            self.start = gr.Button("Start learning", variant="primary", elem_id="start")

    @property
    def _widgets(self) -> list[Any]:
        return [self.base, *self.options.values()]

    def _chosen(self, values: Sequence[Any]) -> dict[str, Any]:
        return chosen(self.model, list(self.options), values)

    def _moves(self) -> None:
        """What leads from one step to another."""
        for button, step in (
            (self.to_text, TEXT),
            (self.go_text, TEXT),
            (self.to_check, CHECK),
            (self.back, MODEL),
        ):
            button.click(
                lambda to=step: gr.Walkthrough(selected=to), None, self.walk, **QUIET
            )
        self.folder.upload(lambda files: files, self.folder, self.files, **QUIET)
        self._checking()
        self._choosing()
        self._planning()

    def _checking(self) -> None:
        given = [self.path, self.files, self.speakers, self.other, self.redact]
        shown = [
            self.walk,
            self.found,
            self.who,
            self.speakers,
            self.redact,
            self.to_model,
            self.tokens,
        ]

        @_telling(len(shown))
        def check(path: Any, files: Any, *rest: Any) -> Iterator[Any]:
            return self._checked(path, files, *rest)

        @_telling(len(shown))
        def check_anew(path: Any, files: Any, *rest: Any) -> Iterator[Any]:
            """Another text: what was said of the last one says nothing of it."""
            return self._checked(path, files, [], rest[1], None)

        self.look.click(check_anew, given, shown, **SLOW)
        self.path.submit(check_anew, given, shown, **SLOW)
        self.me.click(check, given, shown, **SLOW)
        self.redact.input(check, given, shown, **SLOW)
        self.example.click(
            lambda: ("demo:journal", None), None, [self.path, self.files], **QUIET
        ).then(check_anew, given, shown, **SLOW)

    def _checked(
        self, path: Any, files: Any, me: Any, other: Any, redact: Any
    ) -> Iterator[Any]:
        """Go to the second step, then say what the text is.

        Args:
            path: The folder or file that was typed.
            files: The files that were added in its place.
            me: The speakers that the reader is.
            other: Further names of the reader.
            redact: Whether secrets are replaced; None: nobody has chosen yet, and
                they are proposed to be where there are some.
        """
        self.actions.data(path, files)
        still, off = gr.skip(), gr.update(interactive=False)
        # Said again each time: of two updates in quick succession the page may take
        # the second one alone.
        here = gr.Walkthrough(selected=CHECK)
        reading = self.actions.waiting() or render.note("Reading your text …")
        yield here, reading, still, still, still, off, 0
        names = [*(me or []), *names_of(other)]
        try:
            checked = self.actions.check(path, files, names, redact)
        except Exception as error:
            problem = problem_html(error)
            yield here, problem, gr.update(visible=False), still, still, off, 0
            return
        asked = bool(checked.speakers)
        who = gr.update(choices=list(checked.speakers), value=[]) if asked else still
        yield (
            here,
            checked.html,
            gr.update(visible=asked),
            who,
            _replacing(checked.secrets, redact),
            gr.update(interactive=not asked),
            checked.tokens,
        )

    def _choosing(self) -> None:
        """What the third step does."""

        @with_warnings
        def enter(value: Any, *values: Any) -> Any:
            return gr.Walkthrough(selected=MODEL), self._cards(value, values)

        @with_warnings
        def smaller(value: Any, *values: Any) -> Any:
            options = self._chosen(["", *values[1:]])
            return enter(self.models.smaller(value, options), *values)

        @with_warnings
        def look_up(name: Any, *values: Any) -> Any:
            return self._cards(self.models.look_up(name), values)

        @with_warnings
        def picked(value: Any) -> Any:
            one = self.models.find(value)
            label = f"Download {render.size(one.download)}"
            return gr.update(value=label, visible=not one.here)

        fetching = [self.fetching, self.clock, self.cancel, self.fetch]
        cards = [self.base, *self._widgets]
        steps = [self.walk, self.base]
        gr.on([self.to_model.click, self.go_model.click], enter, cards, steps, **SLOW)
        self.go_smaller.click(smaller, cards, steps, **SLOW)
        self.find.click(look_up, [self.named, *self._widgets], self.base, **SLOW)
        self.named.submit(look_up, [self.named, *self._widgets], self.base, **SLOW)
        self.base.change(picked, self.base, self.fetch, **QUIET)

        @with_warnings
        def fetch(value: Any) -> Any:
            self.models.fetch(value)
            return self._fetching()

        self.fetch.click(fetch, self.base, fetching, **QUIET)
        self.clock.tick(with_warnings(self._fetching), None, fetching, **QUIET).then(
            with_warnings(self._arrived), cards, [self.base, self.fetch], **QUIET
        )
        self.cancel.click(with_warnings(self.models.cancel), **QUIET)

    def _cards(self, value: Any, values: Sequence[Any]) -> Any:
        """The models to choose from; the one used last is chosen at first."""
        found = self.models.choices(self._chosen(["", *values[1:]]))
        ids = [one for _, one in found]
        usual = self.actions.usual_model(self.model)
        wanted = next((one for one in (value, usual) if one in ids), ids[0])
        return gr.update(choices=found, value=wanted)

    def _fetching(self) -> Any:
        """How the download stands, and whether to look again."""
        shown, running = self.models.progress()
        return (
            shown,
            gr.Timer(active=running),
            gr.update(visible=running),
            gr.update(visible=False) if running else gr.skip(),
        )

    def _arrived(self, value: Any, *values: Any) -> Any:
        """The cards, and the button for another try, once a download has ended."""
        _, running = self.models.progress()
        if running:
            return gr.skip(), gr.skip()
        here = self.models.find(value).here
        return self._cards(value, values), gr.update(visible=not here)

    def _planning(self) -> None:
        """What the fourth step does before its start."""
        steps = self.options["steps"]
        federation = [self.uri, self.participant]

        @with_warnings
        def enter(tokens: Any, uri: Any, who: Any, *values: Any) -> Any:
            one = self.models.find(values[0])
            if not one.here:
                text = f"{one.title} is not here yet: download it first."
                raise Mendable(text, "fetch")
            plans = self.actions.plans(tokens, self._chosen(values))
            choices = [(plan.label, name) for name, plan in plans.items()]
            known = self.actions.federation() if not uri else (uri, who)
            return (
                gr.Walkthrough(selected=LEARN),
                gr.update(choices=choices, value="normal"),
                plans["normal"].steps,
                self.actions.free_name(),
                *known,
            )

        @with_warnings
        def planned(plan: Any, tokens: Any, *values: Any) -> Any:
            plans = self.actions.plans(tokens, self._chosen(values))
            return plans[plan].steps if plan in plans else gr.skip()

        @with_problem_html
        def estimated(*values: Any) -> str:
            options = self._chosen(values)
            known = need(self.models.find(values[0]), options)
            return self.actions.estimate(options, known)

        self.to_learn.click(
            enter,
            [self.tokens, *federation, *self._widgets],
            [self.walk, self.plan, steps, self.name, *federation],
            **SLOW,
        )
        self.plan.input(
            planned, [self.plan, self.tokens, *self._widgets], steps, **QUIET
        )
        steps.input(lambda: None, None, self.plan, **QUIET)
        gr.on(
            [box.change for box in self.options.values()],
            estimated,
            self._widgets,
            self.cost,
            **QUIET,
        )
        self.how.change(
            lambda how: gr.update(visible=how != ALONE), self.how, self.shared, **QUIET
        )

    def begun(self, *values: Any) -> str:
        """Start the training that the widgets describe; returns its name."""
        name, path, files, me, other, redact, how, uri, who, *rest = values
        options = self._chosen(rest)
        read_as = {"me": [*(me or []), *names_of(other)], "redact": bool(redact)}
        federation = shared(how, uri, who, options["steps"])
        given = {**options, **read_as, **federation}
        return self.actions.start(name, path, files, given)

    @property
    def inputs(self) -> list[Any]:
        """What `begun` is given."""
        text = [self.path, self.files, self.speakers, self.other, self.redact]
        federation = [self.how, self.uri, self.participant]
        return [self.name, *text, *federation, *self._widgets]

    @property
    def kept(self) -> dict[str, Any]:
        """The widgets whose values outlive a reload, by name."""
        form = {key: box for key, box in self.options.items() if key != "steps"}
        return {
            "data": self.path,
            "me": self.other,
            "learn_federation": self.uri,
            "learn_participant": self.participant,
            **{f"option_{key}": box for key, box in form.items()},
        }


def build(
    actions: TrainActions, model: str, frame: Frame
) -> tuple[gr.Dropdown, dict[str, Any]]:
    """Put the Train tab on the page.

    Args:
        actions: What its buttons do.
        model: Base model to begin with.
        frame: The page around it.

    Returns:
        The choice of trainings, and the widgets whose values outlive a reload, by name.
    """
    with gr.Column(elem_classes="cm-train"):
        with gr.Column(elem_id="teach") as teach:
            steps = Steps(actions, model)
            with gr.Row(elem_classes="cm-buttons"):
                back = gr.Button(
                    "Show my trainings",
                    visible=False,
                    size="sm",
                    elem_id="show-trainings",
                )
        samples = SampleActions(actions.model_queue, actions.folder)
        card = train_card.build(actions, samples, frame)
    views = [teach, card.column, back, steps.walk]

    @with_warnings
    def begin(*values: Any) -> Any:
        made = steps.begun(*values)
        return gr.update(choices=actions.names(), value=made), *_view(True)

    def opened() -> Any:
        current = actions.current()
        shown = current is not None and actions.standing(current).running
        choice = gr.update(choices=actions.names(), value=current)
        return choice, *_view(shown, current is not None)

    steps.start.click(begin, steps.inputs, [card.run, *views], js=ASK, **SLOW)
    back.click(lambda: _view(True), None, views, **QUIET)
    card.fresh.click(lambda: _view(False), None, views, **QUIET)
    frame.page.load(opened, None, [card.run, *views], **QUIET)
    return card.run, steps.kept


def _view(training: bool, any_there: bool = True) -> tuple[Any, ...]:
    """Updates that show a training, or the steps to a new one from the first on."""
    return (
        gr.update(visible=not training),
        gr.update(visible=training),
        gr.update(visible=any_there),
        gr.skip() if training else gr.Walkthrough(selected=TEXT),
    )


def _replacing(secrets: bool, chosen: Any) -> Any:
    """The choice to replace secrets; on at first, and not seen without any."""
    seen = secrets or bool(chosen)
    if chosen is None:
        return gr.update(value=secrets, visible=seen)
    return gr.update(visible=seen)


def _telling(outputs: int) -> Callable[..., Any]:
    """A generator's errors as a message; what it would have changed stays.

    Args:
        outputs: How many widgets it changes.
    """

    def wrap(act: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def safe(*values: Any) -> Iterator[Any]:
            try:
                yield from act(*values)
            except Exception as error:
                warn(error)
                yield tuple(gr.skip() for _ in range(outputs))

        return safe

    return wrap


def chosen(model: str, names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The widgets' values as options of train.

    Args:
        model: Where the first value, the base model, is empty.
        names: Of the options after it.
        values: As widgets give them: whole numbers may be floats.

    Raises:
        ConfigError: If a number was left out.
    """
    base, *rest = values
    given: dict[str, Any] = {"model": str(base or "").strip() or model}
    for name, value in zip(names, rest, strict=True):
        if value is None and DEFAULTS[name] is not None:
            raise ConfigError(f"{words.label(name)}: fill in a number.")
        whole = isinstance(value, float) and value.is_integer()
        given[name] = int(value) if whole and name != "learning_rate" else value
    return given


def _options() -> dict[str, Any]:
    """Option name -> widget."""
    known = {key: (default, help) for key, default, help in defaults()}
    with gr.Row():
        return {key: _widget(key, *known[key]) for key in OPTIONS}


def _widget(key: str, default: Any, help: str) -> Any:
    label = words.label(key)
    if isinstance(default, bool):
        return gr.Checkbox(
            default, label=label, info=help, elem_id=f"option-{key}", min_width=200
        )
    precision = None if isinstance(default, float) else 0
    return gr.Number(
        default,
        label=label,
        info=help,
        precision=precision,
        elem_id=f"option-{key}",
        min_width=150,
    )
