"""`python -m comigs_mlx.generate`: text from a run, and who spoke it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from comigs_mlx import command
from comigs_mlx.config import option, parse
from comigs_mlx.errors import ConfigError
from comigs_mlx.files import check_replaceable
from comigs_mlx.options import parse_experts

if TYPE_CHECKING:
    from comigs_mlx.inference.generation import Generation
    from comigs_mlx.inference.replies import Progress
    from comigs_mlx.inference.settings import Settings
    from comigs_mlx.model.base import Base
    from comigs_mlx.model.mixture import Mixture
    from comigs_mlx.runs.place import Place

T = TypeVar("T", dict[str, Any], list[Any])

QUIET_SECONDS = 2.0
"""While a prompt is being read, a line of progress no more often than this."""


@dataclass(frozen=True)
class GenerateConfig:
    """Let a run speak: the answer on stdout as it is made.

    With --trace and --html it is written down which expert spoke each token, in each
    block: as JSON, and as one page to open in a browser.

      python -m comigs_mlx.generate --run runs/notes --prompt "What did I plan?"
      python -m comigs_mlx.generate --run runs/notes --prompt "Dear" \\
          --ignore-chat-template --experts specialist --html who.html
      python -m comigs_mlx.generate --run runs/notes --prompt "Dear" --lean 1.5
    """

    run: str = option("", "folder of the run", "DIR")
    prompt: str = option("", "what to answer, or to continue", "TEXT")
    experts: str = option(
        "auto",
        "who speaks: auto (the router), base, generalist, specialist, or one weight an "
        "expert, such as 0.3,0.7",
        "WHO",
    )
    fuse: bool = option(
        False,
        "with one expert only (--experts generalist, say): fuse it into the base's "
        "weights in memory, so that it costs what the base costs",
    )
    best: bool = option(False, "use the save with the lowest validation loss")
    lean: float | None = option(
        None,
        "more me, more everyone: add this to the specialists' logits in every block; "
        "0 = the router as it is (default: what evaluate --calibrate-lean has kept in "
        "the run, else 0)",
        "X",
    )
    prior: float | None = option(
        None,
        "lean to the specialists by this times how much more the prompt is like the "
        "run's training text than like other text; 0 = off (default: what evaluate "
        "--calibrate-prior has kept in the run, else 0)",
        "SCALE",
    )
    steer: str | None = option(
        None,
        "steer by this text: more of the experts that are busier on it than on other "
        "text, in the middle blocks",
        "FILE",
    )
    steer_by: float = option(
        1.0, "what --steer adds to their logits; below 0 steers away from it", "X"
    )
    reroute: str | None = option(
        None,
        "experimental: fit the router's choice to this text by some steps of gradient; "
        "give text that the prompt is about and that you did not write",
        "FILE",
    )
    reroute_steps: int = option(5, "steps of --reroute", "N")
    max_tokens: int = option(256, "tokens to generate at most", "N")
    temp: float = option(0.0, "sampling temperature; 0 takes the likeliest token", "T")
    top_p: float = option(
        1.0, "draw from the likeliest tokens of this probability", "P"
    )
    min_p: float = option(
        0.0, "leave out tokens below this share of the likeliest one's probability", "P"
    )
    top_k: int = option(0, "draw from this many likeliest tokens; 0 = all", "N")
    xtc_probability: float = option(
        0.0, "how often XTC leaves out all likely tokens but the last of them", "P"
    )
    xtc_threshold: float = option(
        0.1, "probability from which XTC counts a token as likely, at most 0.5", "P"
    )
    repetition_penalty: float = option(
        1.0, "divide the logits of the last 20 tokens; 1 = off", "X"
    )
    presence_penalty: float = option(
        0.0, "subtract this from the logits of the last 20 tokens", "X"
    )
    frequency_penalty: float = option(
        0.0, "the same, once for each time a token stands there", "X"
    )
    logit_bias: str | None = option(
        None, "what to add to the logits of tokens, such as '{\"42\": -5.0}'", "JSON"
    )
    stop: str | None = option(
        None,
        'end before this text; several as JSON, such as \'["STOP", "END"]\'',
        "WORDS",
    )
    chat_template_args: str | None = option(
        None,
        "arguments of the chat template, such as '{\"enable_thinking\": false}'",
        "JSON",
    )
    seed: int = option(0, "of the draws", "N")
    system_prompt: str | None = option(None, "system prompt", "TEXT")
    ignore_chat_template: bool = option(
        False, "give the prompt to the model as it is, to be continued"
    )
    trace: str | None = option(None, "write who spoke as JSON", "FILE.json")
    html: str | None = option(None, "write who spoke as a page", "FILE.html")

    def settings(self) -> Settings:
        """The same as the engine takes it.

        Raises:
            ConfigError: If an option that holds JSON holds none, or there are no such
                experts.
        """
        from comigs_mlx.inference.settings import Settings

        example = '{"enable_thinking": false}'
        arguments: dict[str, Any] = _json(
            self.chat_template_args, dict, "--chat-template-args", example
        )
        same = ("top_p", "min_p", "top_k", "xtc_probability", "xtc_threshold", "seed")
        penalties = ("repetition_penalty", "presence_penalty", "frequency_penalty")
        return Settings(
            selection=parse_experts(self.experts),
            temperature=self.temp,
            max_tokens=self.max_tokens,
            lean=self.lean,
            prior=self.prior,
            reroute=0 if self.reroute is None else self.reroute_steps,
            system=self.system_prompt,
            logit_bias=_biases(self.logit_bias),
            stop=_stop_words(self.stop),
            template_args=arguments,
            **{name: getattr(self, name) for name in (*same, *penalties)},
        )

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        if not self.prompt:
            yield "--prompt TEXT is missing"
        elif not self.prompt.strip():
            yield "--prompt is blank: give some text"
        try:
            yield from self.settings().problems(_flag)
            if self.reroute is not None and self.reroute_steps == 0:
                yield "--reroute-steps 0 must be at least 1: or drop --reroute"
        except ConfigError as error:
            yield str(error)
        yield from self._steer_problems()
        if self.ignore_chat_template and self.chat_template_args is not None:
            yield "--chat-template-args needs the chat template: drop one of the two"
        if self.fuse and (self.trace is not None or self.html is not None):
            yield "--fuse leaves one expert, so there is nothing to trace: drop one"
        for name in ("trace", "html"):
            if (file := getattr(self, name)) is not None:
                yield from _unwritable(f"--{name} {file}", Path(file).expanduser())

    def _steer_problems(self) -> Iterator[str]:
        from comigs_mlx.inference.settings import steer_problems

        return steer_problems(self.steer, self.steer_by, self.experts)


def _stop_words(text: str | None) -> tuple[str, ...]:
    """One text as it is, or a JSON list of several.

    Raises:
        ConfigError: If it begins like a JSON list and is none.
    """
    if text is None or not text.startswith("["):
        return () if text is None else (text,)
    return tuple(_json(text, list, "--stop", '["END", "STOP"]'))


def _flag(field: str) -> str:
    """What a setting is called on the command line."""
    flags = {"temperature": "--temp", "reroute": "--reroute-steps"}
    return flags.get(field, f"--{field.replace('_', '-')}")


def _json(text: str | None, kind: type[T], flag: str, example: str) -> T:
    """A value that is given as JSON; an empty one where the flag is not given.

    Raises:
        ConfigError: If it is no JSON of that kind.
    """
    if text is None:
        return kind()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise ConfigError(f"{flag} expects JSON such as {example}, got {text!r}")
    return value


def _biases(text: str | None) -> dict[int, float]:
    """Token id -> what is added to its logit.

    Raises:
        ConfigError: If it is no JSON object of token ids and numbers.
    """
    flag, example = "--logit-bias", '{"42": -5.0}'
    given: dict[str, Any] = _json(text, dict, flag, example)
    numbers = all(type(bias) in (int, float) for bias in given.values())
    if not numbers or not all(i.isascii() and i.isdigit() for i in given):
        raise ConfigError(f"{flag} expects JSON such as {example}, got {text!r}")
    return {int(token): bias for token, bias in given.items()}


def _unwritable(option: str, file: Path) -> Iterator[str]:
    """Known before the answer is made, not after."""
    try:
        check_replaceable(file)
    except OSError as error:
        yield f"{option}: {error.strerror}"
        return
    if not file.parent.is_dir():
        yield f"{option}: there is no folder {file.parent}"
    elif file.is_dir():
        yield f"{option}: this is a folder, give a file in it"
    elif not os.access(file.parent, os.W_OK):
        yield f"{option}: you may not write in {file.parent}"


def main(argv: Sequence[str] | None = None) -> None:
    """Load the run, stream the answer, write the traces asked for."""
    config = parse(GenerateConfig, "comigs_mlx.generate", argv)
    from comigs_mlx.inference import steering
    from comigs_mlx.inference.generation import Generation
    from comigs_mlx.inference.replies import Watch
    from comigs_mlx.model.fusing import fused
    from comigs_mlx.model.mixture import Mixture
    from comigs_mlx.runs.folder import RunFolder

    folder = RunFolder(config.run)
    texts = {
        name: None if file is None else steering.read(file)
        for name, file in (("steer", config.steer), ("reroute", config.reroute))
    }
    base, mixture = folder.load(best=config.best, report=command.say)
    settings = _tilted(config, folder, base, mixture, **texts)
    prompt, watch = _tokens(base, config, settings), Watch(listen=_Reading())
    generation = Generation(base, mixture, prompt, settings, watch)
    speaking = fused if config.fuse else Mixture.selected
    with speaking(mixture, settings.selection):
        _stream(generation)
    _write(generation, config)


def _tilted(
    config: GenerateConfig,
    folder: Place,
    base: Base,
    mixture: Mixture,
    steer: str | None,
    reroute: str | None,
) -> Settings:
    """The settings with everything that tilts the router: kept, or asked for.

    Args:
        config: The options.
        folder: The run.
        base: The model of the mixture, and its tokenizer.
        mixture: Attached.
        steer: The text to steer by.
        reroute: The text to fit the router's choice to.
    """
    from comigs_mlx.inference import lean, prior, rerouting, steering

    values = partial(lean.values_digest, mixture)
    settings = lean.with_kept(config.settings(), folder, values, command.say)
    speaking = (base, mixture, config.prompt, values, command.say)
    settings = prior.with_prior(settings, folder, *speaking)
    if steer is not None:
        asked = (steer, config.steer_by, str(config.steer), command.say)
        step = command.Steps("comparing texts", "windows", QUIET_SECONDS)
        settings = steering.steered(settings, base, mixture, *asked, step)
    if reroute is None:
        return settings
    tokens = rerouting.context(base, pasted=reroute)
    if len(tokens) < rerouting.LEAST_TOKENS:
        raise ConfigError(
            f"{config.reroute} has {len(tokens)} tokens, too few to fit anything to: "
            f"give at least {rerouting.LEAST_TOKENS}"
        )
    step = command.Steps("rerouting", "steps", QUIET_SECONDS)
    return rerouting.rerouted(settings, mixture, tokens, command.say, step)


def _tokens(base: Base, config: GenerateConfig, settings: Settings) -> list[int]:
    from comigs_mlx.inference.prompts import prompt_tokens

    template = not config.ignore_chat_template
    if template and not base.tokenizer.has_chat_template:
        command.say(
            f"note: {base.id} has no chat template, so it is no chat model: it "
            "continues the prompt rather than answering it"
        )
    given = (config.prompt, config.system_prompt, template)
    return prompt_tokens(base.tokenizer, *given, settings.template_args)


def _stream(generation: Generation) -> None:
    """The answer on stdout; what is said of a Ctrl-C begins on a line of its own."""
    begun = False
    try:
        for token in generation:
            command.show(token.text, end="")
            begun = True
    except KeyboardInterrupt:
        if begun:
            command.show("")
        raise
    command.show("")


class _Reading:
    """Says how far a long prompt has been read; of a short one nothing."""

    def __init__(self) -> None:
        self._say = command.Steps("reading the prompt", "tokens", QUIET_SECONDS)

    def __call__(self, progress: Progress) -> None:
        self._say(progress.done, progress.total)


def _write(generation: Generation, config: GenerateConfig) -> None:
    from comigs_mlx.files import write_text
    from comigs_mlx.inference.trace import summary, to_html, to_json

    trace = generation.trace()
    if config.experts != "base" and not config.fuse:
        command.say(summary(trace))
    if config.trace is not None:
        content = json.dumps(to_json(trace), ensure_ascii=False)
        write_text(Path(config.trace).expanduser(), content + "\n")
    if config.html is not None:
        write_text(Path(config.html).expanduser(), to_html(trace))


if __name__ == "__main__":
    command.run(main)
