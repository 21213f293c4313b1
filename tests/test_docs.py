"""Every command in the documentation is one: tutorials run, all others are parsed.

A block marked `sh` in docs/ holds `comigs` commands, and is run here with a tiny model;
what needs the network, a Mac or minutes is marked `console`.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest

import comigs_mlx
from comigs_mlx import __main__ as comigs
from comigs_mlx import config, options
from tests.tiny import TRAINING, flags

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = ("install", "tutorials/alone", "tutorials/friends", "tutorials/simulate")
PAGES = [ROOT / "README.md", ROOT / "PRIVACY.md", *sorted(DOCS.rglob("*.md"))]
EXAMPLES = DOCS / "plugins.md"
"""The examples of plugins are installed and used by tests/plugins."""

BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
COMMAND = re.compile(
    r"^(?: {4,})?(?:comigs |python -m comigs_mlx\.)([a-z]+ .*)$", re.MULTILINE
)
SIMULATION = {"rounds": 1, "local_steps": 2, "seq_len": 16, "batch_size": 2, "rank": 2}


def lines(text):
    """Each command of a shell script as words, without comments."""
    whole = text.replace("\\\n", " ")
    return [words for line in whole.splitlines() if (words := shlex.split(line, True))]


def smaller(words, model):
    """Flags that make a command of the documentation one of a second."""
    name, resumed = words[0], "--resume" in words
    if name == "train":
        rest = {"steps": 8} if resumed else {"model": model, **TRAINING}
    elif words[:2] == ["sync", "init"]:
        rest = {"model": model, "rank": TRAINING["rank"]}
    elif name == "simulate":  # the last --method wins
        rest = {"model": model, **SIMULATION, "method": "local", "no_plots": True}
    else:
        rest = {"max_tokens": 3} if name == "generate" else {}
    return flags(**rest)


@pytest.fixture
def home(tmp_path, monkeypatch, text_folder):
    """A user's home folder, with the folders that the tutorials name."""
    for name in ("Notes", "Letters", "texts/ann", "texts/ben"):
        shutil.copytree(text_folder, tmp_path / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_can_be_followed(page, cli, tiny_folder):
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text(encoding="utf-8"))
    assert blocks
    for program, *words in lines("\n".join(blocks)):
        assert program == "comigs"
        code, _, err = cli(comigs.main, *words, *smaller(words, tiny_folder()))
        assert code == 0, (words, err)


class Parsed(BaseException):
    """A command has understood its flags."""


def commands(page):
    """Each command on a page, as words; not those with a variable of the shell."""
    if page == EXAMPLES:
        return
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in COMMAND.findall(text):
        words = shlex.split(line, comments=True)
        if words[0] in comigs.commands() and "$" not in line and "--help" not in words:
            yield words


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p != EXAMPLES], ids=lambda p: p.stem
)
def test_every_command_has_the_flags_it_is_shown_with(page, cli, tmp_path, monkeypatch):
    def parsed(kind, values):
        config_from_dict(kind, values)
        raise Parsed

    config_from_dict = config.from_dict
    monkeypatch.setattr(config, "from_dict", parsed)
    monkeypatch.setattr(options, "from_dict", parsed)
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for words in commands(page):
        try:
            code, _, err = cli(comigs.main, *words)
        except Parsed:
            continue
        pytest.fail(f"{page.name}: {' '.join(words)}: {code} {err}")


def test_the_parser_of_pages_finds_commands():
    assert ["clean", "--dry-run"] in list(commands(ROOT / "PRIVACY.md"))
    assert sum(1 for _ in commands(ROOT / "README.md")) > 15


def test_the_reference_has_every_public_name():
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: comigs_mlx\.([\w.]+)\.(\w+)$", text, re.MULTILINE)
    assert {name: home for home, name in shown} == comigs_mlx._HOME


def test_wheels_are_shown_with_this_version():
    shown = {
        version
        for page in PAGES
        for version in re.findall(r"comigs_mlx-([\w.]+)-py3", page.read_text("utf-8"))
    }
    assert shown == {comigs_mlx.__version__}
