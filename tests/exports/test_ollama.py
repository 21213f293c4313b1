"""Templates of Go, derived from templates of Jinja, and what they write."""

import re

import jinja2
import pytest

from comigs_mlx.exports import ollama
from comigs_mlx.model.base import load_base
from tests import tiny

LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}"
    "<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{% endif %}"
)
SMOLLM = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "<|im_start|>system\nYou are {{ '{{' }}helpful.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}"
    "<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
COUNTING = "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}"
KNOWN = {
    "chatml": tiny.CHATML,
    "llama3": LLAMA_3,
    "smollm": SMOLLM,
    "gemma": GEMMA,
}
TALKS = [
    [("user", "Who?")],
    [("user", "a b"), ("assistant", "c\nd"), ("user", "e")],
    [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")],
]


def renderer(source):
    def refuse(text):
        raise ValueError(text)

    template = jinja2.Environment().from_string(source)

    def render(messages, answer):
        told = [{"role": role, "content": text} for role, text in messages]
        text = template.render(
            messages=told,
            add_generation_prompt=answer,
            bos_token="<s>",
            raise_exception=refuse,
        )
        return text.removeprefix("<s>")

    return render


def run_go(source, messages):
    """Execute the few words of Go's templates that are used here."""
    loop = re.fullmatch(
        r"\{\{ range \.Messages \}\}(.*)\{\{ end \}\}(.*)", source, re.S
    )
    turns = re.findall(
        r'\{\{ if eq \.Role "(\w+)" \}\}(.*?)\{\{ \.Content \}\}(.*?)\{\{ end \}\}',
        loop[1],
        re.S,
    )
    texts = {role: (before, after) for role, before, after in turns}
    parts = [f"{texts[r][0]}{text}{texts[r][1]}" for r, text in messages]
    return "".join([*parts, loop[2]]).replace('{{ "{{" }}', "{{")


@pytest.mark.parametrize("name", KNOWN)
def test_go_writes_what_jinja_does(name):
    render = renderer(KNOWN[name])
    template = ollama.derived(render)
    for talk in TALKS:
        if talk[0][0] in template.around:
            told = talk
            if template.system is not None and talk[0][0] != "system":
                told = [("system", template.system), *talk]  # as Ollama's SYSTEM does
            assert run_go(template.go(), told) == render(talk, True)
    assert ("system" in template.around) == (name != "gemma")


def test_a_default_system_message_becomes_ollama_s():
    assert ollama.derived(renderer(SMOLLM)).system == "You are {{helpful."
    assert ollama.derived(renderer(LLAMA_3)).system is None


def test_a_template_that_is_more_than_turns_is_left_to_ollama():
    assert ollama.derived(renderer(COUNTING)) is None
    assert ollama.derived(renderer("{{ raise_exception('never') }}")) is None


@pytest.mark.parametrize("adds", [True, False])
def test_a_beginning_is_left_out_only_where_ollama_adds_it(tiny_folder, adds):
    """SmolLM2's beginning is <|im_start|>, with which every message begins."""
    tokenizer = load_base(str(tiny_folder())).tokenizer

    class Beginning:
        bos_token, bos_token_id = (
            tiny.BEGIN,
            tokenizer.convert_tokens_to_ids(tiny.BEGIN),
        )

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def encode(self, text):
            return [self.bos_token_id] * adds + tokenizer.encode(text)

    render = ollama._jinja(Beginning())
    written = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )
    assert written.startswith(tiny.BEGIN)
    expected = written.removeprefix(tiny.BEGIN) if adds else written
    assert render([("user", "Hi")], False) == expected
