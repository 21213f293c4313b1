"""A plugin is a file of its kind's folder, or another package's entry point."""

import subprocess
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
        assert registry.built_in(kind) == sorted(s for s in stems if s[0] != "_")
        assert registry.built_in(kind)
        assert set(registry.built_in(kind)) <= set(registry.names(kind))

    def test_every_name_loads_its_own_file(self, kind):
        for name in registry.built_in(kind):
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
            ("a:b=true,c=false", ("a", {"b": True, "c": False})),
            ("a:b=word,c=q8_0.x-y", ("a", {"b": "word", "c": "q8_0.x-y"})),
        ],
    )
    def test_a_name_with_options(self, text, found):
        assert registry.parse(text) == found

    @pytest.mark.parametrize("text", ["a:", "a:b", "a:=1", "a:b=1,b=2", "a:b=1,"])
    def test_what_is_written_otherwise_is_refused_with_the_form(self, text):
        with pytest.raises(ConfigError, match="write NAME, or NAME:key=value"):
            registry.parse(text)

    @pytest.mark.parametrize("value", ["", "nan", "inf", "-1e999", "1;2", "a b", "ä"])
    def test_a_value_is_a_finite_number_a_truth_or_a_word(self, value):
        expected = "a:b=.*: b must be a number, true or false, or a word, got"
        with pytest.raises(ConfigError, match=expected):
            registry.parse(f"a:b={value}")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package: (its name, entry points, files) -> None."""

    def make(package, entries, **files):
        folder = tmp_path / package
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(entries)
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(folder)

    return make


class TestEntryPoints:
    def test_another_package_adds_a_plugin_that_is_imported_when_asked_for(
        self, install
    ):
        entries = "[comigs_mlx.routers]\nfar = far_router\n"
        install("far-plugins", entries, far_router="Router = 'far'\n")
        assert registry.names("router") == sorted([*registry.built_in("router"), "far"])
        assert "far" not in registry.names("method")
        assert "far_router" not in sys.modules
        assert registry.load("router", "far").Router == "far"

    def test_a_clash_with_a_built_in_one_names_both_packages(self, install):
        install("far-plugins", "[comigs_mlx.aggregators]\nmean = far_mean\n")
        assert registry.names("aggregator").count("mean") == 1
        with pytest.raises(ConfigError) as error:
            registry.load("aggregator", "mean")
        assert str(error.value).startswith(
            "the aggregator 'mean' is in more than one package: comigs-mlx, "
            "far-plugins: "
        )
        assert registry.load("aggregator", "median")

    def test_a_clash_of_two_packages_names_both(self, install):
        for package in ("far-plugins", "near-plugins"):
            install(package, "[comigs_mlx.cases]\nodd = odd_case\n")
        with pytest.raises(ConfigError, match="near-plugins, far-plugins") as error:
            registry.load("case", "odd")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("value", "text", "expected"),
        [
            ("no_such_module", "", "ModuleNotFoundError: No module named"),
            ("broken", "1 / 0", "ZeroDivisionError: division by zero"),
            ("broken", "raise ValueError('a\\nb')", "ValueError: a b"),
            ("broken", "def (", "SyntaxError: "),
            ("broken:thing", "thing = 1", "must name a module"),
        ],
    )
    def test_one_that_cannot_be_imported_is_one_line_with_its_package(
        self, install, monkeypatch, value, text, expected
    ):
        monkeypatch.delitem(sys.modules, "broken", raising=False)
        install("far-plugins", f"[comigs_mlx.formats]\nodd = {value}\n", broken=text)
        with pytest.raises(ConfigError) as error:
            registry.load("format", "odd")
        assert "the format 'odd' of the package far-plugins" in str(error.value)
        assert expected in str(error.value)
        assert "\n" not in str(error.value)


def test_listing_every_kind_imports_neither_mlx_nor_numpy():
    code = (
        "import sys; from comigs_mlx import registry\n"
        "before = set(sys.modules)\n"
        "for kind in registry.KINDS: registry.names(kind)\n"
        "heavy = {'mlx.core', 'mlx_lm', 'numpy', 'huggingface_hub', 'transformers'}\n"
        "assert not heavy & (set(sys.modules) - before), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
