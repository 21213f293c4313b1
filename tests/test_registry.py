"""A plugin is a file of its kind's folder."""

import sys
from pathlib import Path

import pytest

import comigs_mlx
from comigs_mlx import registry
from comigs_mlx.errors import ConfigError


@pytest.mark.parametrize("kind", registry.KINDS)
class TestKind:
    def test_names_are_the_files_of_its_folder(self, kind):
        parts = registry.KINDS[kind].split(".")[1:]
        folder = Path(comigs_mlx.__file__).parent.joinpath(*parts)
        stems = {path.stem for path in folder.glob("*.py")}
        assert registry.names(kind) == sorted(s for s in stems if s[0] != "_")
        assert registry.names(kind)

    def test_every_name_loads_its_own_file(self, kind):
        for name in registry.names(kind):
            module = registry.load(kind, name)
            assert Path(module.__file__).stem == name
            assert module.__doc__

    @pytest.mark.parametrize("name", ["magic", "", "__init__", "../errors", "TopK"])
    def test_an_unknown_name_is_refused_with_the_known_ones(self, kind, name):
        with pytest.raises(ConfigError) as error:
            registry.load(kind, name)
        known = ", ".join(registry.names(kind))
        assert str(error.value) == f"unknown {kind} {name!r}: choose one of {known}"


def test_adding_a_file_is_adding_a_plugin(tmp_path, monkeypatch):
    package = tmp_path / "shelf_of_plugins"
    package.mkdir()
    for name in ("__init__", "zebra", "ant", "_hidden"):
        (package / f"{name}.py").write_text(f"'''{name}'''\nname = {name!r}\n")
    (package / "notes.txt").write_text("not a plugin")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.KINDS, "animal", "shelf_of_plugins")
    assert registry.names("animal") == ["ant", "zebra"]
    assert "shelf_of_plugins.ant" not in sys.modules  # listing imports none
    assert registry.load("animal", "zebra").name == "zebra"
    with pytest.raises(
        ConfigError, match="unknown animal '_hidden': choose one of ant"
    ):
        registry.load("animal", "_hidden")


def test_an_unknown_kind_is_a_programming_error():
    with pytest.raises(KeyError):
        registry.names("furniture")


class TestParse:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("mean", ("mean", {})),
            ("trimmed_mean:fraction=0.3", ("trimmed_mean", {"fraction": 0.3})),
            ("a: b = 2 , c=-1e-3", ("a", {"b": 2, "c": -0.001})),
        ],
    )
    def test_a_name_with_numbers(self, text, found):
        assert registry.parse(text) == found

    @pytest.mark.parametrize("text", ["a:", "a:b", "a:=1", "a:b=1,b=2", "a:b=1,"])
    def test_what_is_written_otherwise_is_refused_with_the_form(self, text):
        with pytest.raises(ConfigError, match="write NAME, or NAME:key=value"):
            registry.parse(text)

    @pytest.mark.parametrize("value", ["x", "", "nan", "inf", "-1e999", "1;2"])
    def test_a_value_is_a_finite_number(self, value):
        with pytest.raises(ConfigError, match="a:b=.*: b must be a number, got"):
            registry.parse(f"a:b={value}")
