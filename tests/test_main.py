"""`comigs`: all commands under one name, in a checkout and from a wheel."""

import ast
import importlib
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

from comigs_mlx import __main__ as comigs
from comigs_mlx import app, invocation
from comigs_mlx.environment import VERSION
from comigs_mlx.errors import ConfigError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS = comigs.commands()


@pytest.fixture
def console(monkeypatch):
    """As if the console script was called."""
    monkeypatch.setattr(sys, "argv", ["/home/ann/.local/bin/comigs"])


class TestCommands:
    def test_are_the_modules_with_a_main_and_nothing_else(self):
        assert {"train", "evaluate", "generate", "sync", "app"} <= COMMANDS.keys()
        assert COMMANDS.keys().isdisjoint({"command", "config", "options", "files"})

    @pytest.mark.parametrize("name", COMMANDS)
    def test_each_is_listed_with_a_line_of_its_own(self, cli, name):
        code, out, err = cli(comigs.main, "--help")
        assert (code, err) == (0, "")
        assert 10 <= len(COMMANDS[name]) <= 66, "begin its docstring in a few words"
        lines = [line.split() for line in out.splitlines()]
        assert [name, *COMMANDS[name].split()] in lines
        assert max(map(len, out.splitlines())) <= 88

    @pytest.mark.parametrize("name", COMMANDS)
    def test_each_one_s_help_says_how_it_was_called(self, cli, console, name):
        code, out, _ = cli(comigs.main, name, "--help")
        assert code == 0
        assert out.startswith(f"usage: comigs {name} ")
        assert f"python -m comigs_mlx.{name}" not in out

    def test_the_rest_of_the_line_is_the_command_s(self, cli, console):
        code, _, err = cli(comigs.main, "evaluate", "--run", "nowhere")
        assert (code, err) == (
            2,
            "error: no run at nowhere (expected comigs.json in it): train one with "
            "comigs train --run nowhere\n",
        )


class TestWrongCommands:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["trian"], "unknown command 'trian': did you mean train? comigs --help"),
            (["xyz"], "unknown command 'xyz': comigs --help lists all commands"),
            (["config"], "unknown command 'config': "),
            ([], "no command was given: comigs --help lists all commands"),
            (["--runs"], "--runs is no option here: comigs --help lists"),
        ],
    )
    def test_are_one_line_with_what_helps(self, cli, console, words, expected):
        code, out, err = cli(comigs.main, *words)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {expected}")
        assert err.count("\n") == 1


def test_version(cli):
    assert cli(comigs.main, "--version") == (0, f"comigs-mlx {VERSION}\n", "")


class TestHowItWasCalled:
    @pytest.mark.parametrize(
        ("program", "expected"),
        [
            ("/usr/local/bin/comigs", "comigs sync init"),
            ("comigs.exe", "comigs sync init"),
            ("/home/ann/.cache/uv/bin/comigs-mlx", "comigs-mlx sync init"),
            ("/x/comigs_mlx/__main__.py", "python -m comigs_mlx sync init"),
            ("/x/comigs_mlx/sync.py", "python -m comigs_mlx.sync init"),
            ("/x/other/__main__.py", "python -m comigs_mlx.sync init"),
            ("/x/comigs.py", "python -m comigs_mlx.sync init"),
            ("", "python -m comigs_mlx.sync init"),
        ],
    )
    def test_a_command(self, program, expected):
        assert invocation.called("comigs_mlx.sync init", program) == expected
        text = "first python -m comigs_mlx.sync init"
        assert invocation.as_called(text, program) == f"first {expected}"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("run python -m app, or", "run comigs app, or"),
            ("python -m comigs_mlx.train.", "comigs train."),
            ("python -m comigs_mlx.model.demo", "python -m comigs_mlx.model.demo"),
            ("python -m pip list", "python -m pip list"),
            ("python -m apple", "python -m apple"),
        ],
    )
    def test_in_a_message(self, text, expected):
        assert invocation.as_called(text, "comigs") == expected


class TestWheel:
    """What the wheel holds, without the seconds of building one."""

    @pytest.fixture
    def layout(self, monkeypatch):
        """Package -> its folder, as setup.py says."""
        given = {}
        monkeypatch.setattr("setuptools.setup", lambda **options: given.update(options))
        monkeypatch.chdir(ROOT)
        runpy.run_path("setup.py")
        (name, folder), *_ = given["package_dir"].items()
        return {
            package: ROOT / package.replace(name, folder, 1).replace(".", "/")
            for package in given["packages"]
        }

    def test_every_folder_with_code_is_a_package(self, layout):
        folders = {
            file.parent
            for part in ("comigs_mlx", "app")
            for file in (ROOT / part).rglob("*.py")
        }
        assert set(layout.values()) == folders

    def test_no_package_has_a_name_that_others_use(self, layout):
        assert {package.split(".")[0] for package in layout} == {
            "comigs_mlx",
            "comigs_app",
        }

    def test_every_other_file_goes_with_its_package(self, layout):
        data = PROJECT["tool"]["setuptools"]["package-data"]
        for package, folder in layout.items():
            patterns = data.get(package, [])
            for file in folder.iterdir():
                if file.is_file() and file.suffix not in (".py", ".pyc"):
                    assert any(file.match(p) for p in patterns), file
        assert data["comigs_app"] == ["static/*"]

    def test_the_scripts_are_there(self):
        scripts = PROJECT["project"]["scripts"]
        assert set(scripts) == set(invocation.SCRIPTS)
        for target in scripts.values():
            module, name = target.split(":")
            assert callable(getattr(importlib.import_module(module), name))

    def test_the_page_s_modules_never_say_what_their_package_is_called(self):
        for file in (ROOT / "app").rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                named = [alias.name for alias in getattr(node, "names", [])]
                if isinstance(node, ast.ImportFrom):
                    named = [] if node.level else [node.module]
                if isinstance(node, ast.Import | ast.ImportFrom):
                    assert not any(name.split(".")[0] == "app" for name in named), file


class TestPage:
    @pytest.fixture
    def installed(self, tmp_path, monkeypatch):
        """The page under the name that a wheel gives it."""
        (tmp_path / "comigs_app").symlink_to(ROOT / "app")
        monkeypatch.syspath_prepend(tmp_path)
        yield
        for name in [n for n in sys.modules if n.split(".")[0] == "comigs_app"]:
            del sys.modules[name]

    @pytest.mark.usefixtures("installed")
    def test_is_found_under_the_wheel_s_name(self, cli, console):
        assert app.package() == "comigs_app"
        code, out, _ = cli(comigs.main, "app", "--help")
        assert (code, out.splitlines()[0][:17]) == (0, "usage: comigs app")

    def test_is_found_in_a_checkout(self, monkeypatch):
        monkeypatch.setattr(app, "PACKAGES", ("app",))
        assert app.package() == "app"

    def test_is_not_somebody_else_s(self, tmp_path, monkeypatch):
        for name in ("comigs_app", "app"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").touch()
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError, match="the page's files are not installed"):
            app.package()
