"""`python -m comigs_mlx.generate`: text from a run, and who spoke it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from comigs_mlx import command
from comigs_mlx.config import group, option, parse
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference import options
from comigs_mlx.inference.options import SamplingOptions, SpeakerOptions
from comigs_mlx.inference.trace import unwritable

if TYPE_CHECKING:
    from comigs_mlx.inference.generation import Generation
    from comigs_mlx.inference.replies import Progress
    from comigs_mlx.inference.settings import Settings
    from comigs_mlx.model.base import Base
    from comigs_mlx.model.mixture import Mixture
    from comigs_mlx.runs.place import Place

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
    fuse: bool = option(
        False,
        "with one expert only (--experts generalist, say): fuse it into the base's "
        "weights in memory, so that it costs what the base costs",
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
    ignore_chat_template: bool = option(
        False, "give the prompt to the model as it is, to be continued"
    )
    trace: str | None = option(None, "write who spoke as JSON", "FILE.json")
    html: str | None = option(None, "write who spoke as a page", "FILE.html")
    speaker: SpeakerOptions = group(SpeakerOptions)
    sampling: SamplingOptions = group(SamplingOptions)

    def settings(self) -> Settings:
        """The same as the engine takes it.

        Raises:
            ConfigError: If an option that holds JSON holds none, or there are no such
                experts.
        """
        return options.settings(self.speaker, self.sampling, self._steps)

    @property
    def _steps(self) -> int:
        return 0 if self.reroute is None else self.reroute_steps

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        if not self.prompt:
            yield "--prompt TEXT is missing"
        elif not self.prompt.strip():
            yield "--prompt is blank: give some text"
        yield from options.problems(self.speaker, self.sampling, self._steps)
        if self.reroute is not None and self.reroute_steps == 0:
            yield "--reroute-steps 0 must be at least 1: or drop --reroute"
        yield from self._steer_problems()
        if self.ignore_chat_template and self.sampling.chat_template_args is not None:
            yield "--chat-template-args needs the chat template: drop one of the two"
        if self.fuse and (self.trace is not None or self.html is not None):
            yield "--fuse leaves one expert, so there is nothing to trace: drop one"
        for name in ("trace", "html"):
            if (file := getattr(self, name)) is not None:
                if (problem := unwritable(Path(file).expanduser())) is not None:
                    yield f"--{name} {file}: {problem}"

    def _steer_problems(self) -> Iterator[str]:
        from comigs_mlx.inference.settings import steer_problems

        return steer_problems(self.steer, self.steer_by, self.speaker.experts)


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
    base, mixture = folder.load(best=config.speaker.best, report=command.say)
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
    given = (config.prompt, config.sampling.system_prompt, template)
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
    if config.speaker.experts != "base" and not config.fuse:
        command.say(summary(trace))
    if config.trace is not None:
        content = json.dumps(to_json(trace), ensure_ascii=False)
        write_text(Path(config.trace).expanduser(), content + "\n")
    if config.html is not None:
        write_text(Path(config.html).expanduser(), to_html(trace))


if __name__ == "__main__":
    command.run(main)
