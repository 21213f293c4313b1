"""A Modelfile for Ollama: the file, the template of a conversation, what ends a turn.

Ollama writes a conversation by a template of Go, and transformers by one of Jinja. The
Go template is derived from what the Jinja template writes of a few conversations, and
compared with it on more; where the two differ there is none, and Ollama then looks for
one that it knows by the template in the GGUF file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from comigs_mlx.exports.gguf_tokenizer import adds_bos
from comigs_mlx.exports.job import Job

Messages = Sequence[tuple[str, str]]
"""Roles and texts of a conversation."""

Render = Callable[[Messages, bool], str]
"""Writes a conversation; True begins an answer after it."""

TURN = '{{{{ if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{ end }}}}'


@dataclass(frozen=True)
class Template:
    """What stands before and after each role's text.

    Attributes:
        around: Maps a role to the text before and after its own.
        answer: The text that an answer begins with.
        system: The system message where a conversation has none; None for none.
    """

    around: dict[str, tuple[str, str]]
    answer: str
    system: str | None = None

    def render(self, messages: Messages) -> str:
        """Write a conversation up to the beginning of an answer, as Ollama does."""
        if self.system is not None and messages[0][0] != "system":
            messages = [("system", self.system), *messages]
        parts = []
        for role, text in messages:
            before, after = self.around[role]
            parts.append(f"{before}{text}{after}")
        return "".join([*parts, self.answer])

    def go(self) -> str:
        """Write it as a template of Go."""
        turns = (
            TURN.format(role=role, before=_literal(before), after=_literal(after))
            for role, (before, after) in self.around.items()
        )
        return (
            f"{{{{ range .Messages }}}}{''.join(turns)}{{{{ end }}}}"
            f"{_literal(self.answer)}"
        )


def _literal(text: str) -> str:
    """Write text so that a template of Go gives no meaning to it."""
    return text.replace("{{", '{{ "{{" }}')


def modelfile(job: Job, file: str) -> str:
    """Write the content of a Modelfile.

    Args:
        job: The export that the file is part of.
        file: The name of the GGUF file beside it.
    """
    lines = [
        f"# ollama create {job.name} -f Modelfile && ollama run {job.name}",
        f"FROM ./{file}",
    ]
    if job.chat_template is None:
        return "\n".join([*lines, 'TEMPLATE """{{ .Prompt }}"""', ""])
    template = derived(_jinja(job.base.tokenizer))
    if template is None or '"""' in template.go():
        lines.append("# Ollama looks for a template that it knows by the one in FROM.")
    else:
        lines.append(f'TEMPLATE """{template.go()}"""')
        if "system" not in template.around:
            lines.append("# This model's chat template has no system message.")
        elif template.system:
            lines.append(f'SYSTEM """{template.system}"""')
    lines += [f'PARAMETER stop "{end}"' for end in _ends(job.base.tokenizer)]
    return "\n".join([*lines, ""])


def _ends(tokenizer: Any) -> list[str]:
    """Return the tokens at which generation ends, as text."""
    return [tokenizer.convert_ids_to_tokens(i) for i in sorted(tokenizer.eos_token_ids)]


def _jinja(tokenizer: Any) -> Render:
    """Return what writes conversations by the tokenizer's own template.

    What the tokenizer puts before every text is left out: Ollama puts it there too.
    Some, such as SmolLM2's, have a token for the beginning and put none.
    """
    begin = tokenizer.bos_token if adds_bos(tokenizer) else ""

    def render(messages: Messages, answer: bool) -> str:
        conversation = [{"role": role, "content": text} for role, text in messages]
        text: str = tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=answer
        )
        return text.removeprefix(begin)

    return render


def derived(render: Render) -> Template | None:
    """Return the template that writes what `render` writes; None if none is found."""
    try:
        template = _with_system(render)
    except Exception:  # a Jinja template may raise what it likes
        template = None
    try:
        template = template or _without_system(render)
        agrees = template is not None and _agrees(template, render)
    except Exception:
        return None
    return template if agrees else None


def _with_system(render: Render) -> Template | None:
    """Derive a template from conversations that begin with a system message."""
    words = ("S1", "U1", "A1", "U2")
    roles = ("system", "user", "assistant", "user")
    told = list(zip(roles, words, strict=True))
    opening, *between, ending = _around(render(told, False), words)
    system_user, user_assistant, assistant_user = between
    bare = render([("user", "U1")], True)
    first, _, _ = bare.partition("U1")
    answer = render(told, True).removeprefix(render(told, False))
    # What ends a turn of the user ends one of the system, too, in every known template.
    after = os.path.commonprefix([system_user, ending])
    user = system_user.removeprefix(after)
    default: str | None = None
    if first != user:
        if not (first.startswith(opening) and first.endswith(system_user)):
            return None
        default = first[len(opening) : len(first) - len(system_user)]
    return Template(
        {
            "system": (opening, after),
            "user": (user, ending),
            "assistant": (
                user_assistant.removeprefix(ending),
                assistant_user.removesuffix(user),
            ),
        },
        answer,
        default,
    )


def _without_system(render: Render) -> Template | None:
    """Derive a template of one that takes no system message."""
    words, roles = ("U1", "A1", "U2"), ("user", "assistant", "user")
    told = list(zip(roles, words, strict=True))
    user, user_assistant, assistant_user, ending = _around(render(told, False), words)
    answer = render(told, True).removeprefix(render(told, False))
    before = user_assistant.removeprefix(ending)
    after = assistant_user.removesuffix(user)
    around = {"user": (user, ending), "assistant": (before, after)}
    return Template(around, answer)


def _around(text: str, words: Sequence[str]) -> list[str]:
    """Return what stands before, between and after these words of a text."""
    parts = []
    for word in words:
        before, found, text = text.partition(word)
        if not found:
            raise ValueError(f"{word} was not written")
        parts.append(before)
    return [*parts, text]


def _agrees(template: Template, render: Render) -> bool:
    """Compare both on conversations of several lengths."""
    turns = [("user", "Who?"), ("assistant", "I am.\nYes"), ("user", "Why {x}?")]
    cases = [turns[:1], turns, [*turns, ("assistant", "So."), ("user", "Oh")]]
    if "system" in template.around:
        cases += [[("system", "Be kind."), *case] for case in cases]
    return all(template.render(case) == render(case, True) for case in cases)
