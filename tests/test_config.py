"""One field makes flag, default, help and YAML key; every mistake is said at once."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.tiny as tiny
from comigs_mlx.config import (
    dump_yaml,
    from_dict,
    group,
    leaves,
    like,
    markdown,
    option,
    parse,
    read_yaml,
    to_dict,
)
from comigs_mlx.config import (
    given as given_options,
)
from comigs_mlx.errors import ConfigError


@dataclass(frozen=True)
class Engine:
    """How it moves."""

    speed: float = option(2.5, "in knots, 50 % at night", "KN")
    kind: Literal["sail", "steam"] = option("sail", "what drives it")
    spare: Literal["oar"] | None = option(None, "what else does")

    def problems(self):
        if self.speed < 0:
            yield f"--speed {self.speed} must be at least 0"


@dataclass(frozen=True)
class Ship:
    """A ship.

    It sails.
    """

    name: str = option("Ada", "painted on it")
    crew: int = option(3, "people on board", "N")
    home_port: str | None = option(None, "where it belongs", also="haven")
    armed: bool = option(False, "with a cannon")
    fast: bool = option(True, "leave at once")
    cargo: str = option("", "in the hold")
    engine: Engine = group(Engine)

    def problems(self):
        if self.crew < 1:
            yield f"--crew {self.crew} must be at least 1"
        if self.armed and self.engine.kind == "sail":
            yield "--armed needs --kind steam"


def ship(*argv):
    return parse(Ship, "ship", argv)


def yaml_file(tmp_path, text):
    file = tmp_path / "ship.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def problems(values):
    with pytest.raises(ConfigError) as error:
        from_dict(Ship, values)
    return str(error.value).splitlines()


class TestFlags:
    def test_without_flags_all_is_default(self):
        assert ship() == Ship()

    def test_flags_set_options_of_groups_too(self):
        found = ship("--crew", "7", "--speed", "1e-3", "--kind", "steam", "--armed")
        engine = Engine(speed=1e-3, kind="steam")
        assert found == Ship(crew=7, armed=True, engine=engine)

    def test_a_second_name_is_the_same_option(self, tmp_path):
        assert parse(Ship, "ship", ["--haven", "Bath"]).home_port == "Bath"
        (tmp_path / "ship.yaml").write_text("haven: Bath\n")
        flags = ["--config", str(tmp_path / "ship.yaml")]
        assert parse(Ship, "ship", flags).home_port == "Bath"
        assert parse(Ship, "ship", [*flags, "--home-port", "Ryde"]).home_port == "Ryde"

    def test_dashes_stand_for_underscores(self):
        assert ship("--home-port", "Turku").home_port == "Turku"

    @pytest.mark.parametrize(
        ("flags", "armed", "fast"),
        [
            (["--armed", "--kind", "steam"], True, True),
            (["--no-armed", "--no-fast"], False, False),
            (["--fast"], False, True),
        ],
    )
    def test_switches_have_a_no_form(self, flags, armed, fast):
        found = ship(*flags)
        assert (found.armed, found.fast) == (armed, fast)

    @pytest.mark.parametrize(
        ("flags", "text"),
        [
            (["--colour", "red"], "unrecognized arguments: --colour red"),
            (["--cre", "7"], "unrecognized arguments: --cre 7"),  # no abbreviations
            (["--crew", "many"], "argument --crew: invalid int value: 'many'"),
            (["--crew"], "argument --crew: expected one argument"),
            (["--kind", "tank"], "argument --kind: invalid choice: 'tank'"),
            (["stray"], "unrecognized arguments: stray"),
        ],
    )
    def test_a_wrong_flag_is_a_config_error(self, flags, text):
        with pytest.raises(ConfigError) as error:
            ship(*flags)
        assert text in str(error.value)
        assert str(error.value).endswith("(see --help)")
        assert "\n" not in str(error.value)

    def test_given_holds_what_was_said_and_nothing_else(self):
        assert given_options(Ship, "ship", ["--crew", "3"]) == {"crew": 3}


class TestHelp:
    @pytest.fixture
    def text(self, capsys):
        with pytest.raises(SystemExit) as done:
            ship("--help")
        assert done.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    def test_every_option_is_there_with_help_and_default(self, text):
        for field in leaves(Ship):
            assert f"--{field.name.replace('_', '-')}" in text
            assert field.metadata["help"] in text
        for shown in (
            "(default: Ada)",
            "(default: 3)",
            "(default: 2.5)",
            "(default: off)",
            "(default: on)",
            "(default: sail)",
        ):
            assert shown in text
        assert "None" not in text

    def test_an_option_without_a_value_shows_no_default(self, text):
        assert "(default: )" not in text

    def test_usage_group_and_docstring_are_there(self, text):
        assert "usage: python -m ship" in text
        assert "A ship. It sails." in text
        assert "How it moves:" in text
        assert "--speed KN" in text
        assert "--config FILE.yaml" in text


class TestYaml:
    def test_keys_may_have_dashes_or_underscores(self, tmp_path):
        for key in ("home-port", "home_port"):
            file = yaml_file(tmp_path, f"{key}: Turku\ncrew: 5\n")
            assert ship("--config", file) == Ship(home_port="Turku", crew=5)

    def test_flags_win(self, tmp_path):
        file = yaml_file(tmp_path, "crew: 5\nname: Bo\narmed: true\nkind: steam\n")
        found = ship("--config", file, "--crew", "9", "--no-armed")
        assert found == Ship(name="Bo", crew=9, engine=Engine(kind="steam"))

    @pytest.mark.parametrize(
        ("written", "speed"),
        [
            ("1e-5", 1e-5),
            ("1E+2", 100.0),
            ("2e3", 2000.0),
            (".5e1", 5.0),
            ("1.0e-05", 1e-5),
            ("3", 3.0),
            ("0.25", 0.25),
        ],
    )
    def test_numbers_as_people_write_them(self, tmp_path, written, speed):
        file = yaml_file(tmp_path, f"speed: {written}\n")
        found = ship("--config", file).engine.speed
        assert found == speed
        assert isinstance(found, float)

    def test_null_is_none_where_none_is_allowed(self, tmp_path):
        file = yaml_file(tmp_path, "home_port: null\nspare: ~\n")
        assert ship("--config", file) == Ship()

    def test_an_empty_file_sets_nothing(self, tmp_path):
        assert ship("--config", yaml_file(tmp_path, "# nothing\n")) == Ship()

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("- crew\n- 5\n", "expected 'option: value' lines"),
            ("just words", "expected 'option: value' lines"),
            ("crew: [1, 2", "cannot read configuration"),
            ("crew: !!python/object/apply:os.getcwd []", "cannot read configuration"),
        ],
    )
    def test_what_is_not_a_flat_mapping_is_refused_in_one_line(
        self, tmp_path, text, reason
    ):
        file = yaml_file(tmp_path, text)
        with pytest.raises(ConfigError) as error:
            ship("--config", file)
        assert reason in str(error.value)
        assert file in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_missing_or_binary_file_is_refused_in_one_line(self, tmp_path):
        binary = tmp_path / "binary.yaml"
        binary.write_bytes(b"\xff\xfe\x00")
        for file in (tmp_path / "none.yaml", binary, tmp_path):
            with pytest.raises(ConfigError, match="cannot read configuration") as error:
                ship("--config", str(file))
            assert str(file) in str(error.value)
            assert "\n" not in str(error.value)


class TestChecks:
    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ({"crew": "7"}, "crew: expected int, got '7'"),
            ({"crew": 7.0}, "crew: expected int, got 7.0"),
            ({"crew": True}, "crew: expected int, got True"),
            ({"crew": None}, "crew: expected int, got None"),
            ({"speed": "fast"}, "speed: expected float, got 'fast'"),
            ({"speed": True}, "speed: expected float, got True"),
            ({"name": 7}, "name: expected str, got 7"),
            ({"home_port": ["Turku"]}, "home_port: expected str, got ['Turku']"),
            ({"armed": 1}, "armed: expected bool, got 1"),
            ({"kind": "tank"}, "kind: 'tank' is none of sail, steam"),
            ({"kind": None}, "kind: None is none of sail, steam"),
            ({"kind": ["sail"]}, "kind: ['sail'] is none of sail, steam"),
            ({"spare": "sail"}, "spare: 'sail' is none of oar"),
            ({"engine": {"speed": 1}}, "unknown option 'engine'"),
            ({"colour": "red"}, "unknown option 'colour'"),
            ({"crew": 0}, "--crew 0 must be at least 1"),
            ({"speed": -1}, "--speed -1.0 must be at least 0"),
            ({"armed": True}, "--armed needs --kind steam"),
        ],
    )
    def test_one_problem_is_one_line(self, values, text):
        assert problems(values) == [text]

    def test_all_problems_are_said_at_once(self):
        wrong = {
            "colour": "red",
            "mast": 3,
            "name": 7,
            "crew": 0,
            "kind": "tank",
            "speed": -1,
        }
        assert problems(wrong) == [
            "unknown option 'colour'",
            "unknown option 'mast'",
            "name: expected str, got 7",
            "kind: 'tank' is none of sail, steam",
            "--speed -1.0 must be at least 0",
            "--crew 0 must be at least 1",
        ]

    def test_a_long_list_is_cut(self):
        lines = problems({f"option{i}": i for i in range(13)})
        assert len(lines) == 11
        assert lines[-1] == "... and 3 more"


characters = st.characters(codec="utf-8", exclude_categories=["Cs"])
texts = st.text(characters.filter(lambda c: c != "\0"), max_size=12)
awkward = st.sampled_from(
    ["1e-5", "1E5", ".5e+1", "on", "no", "null", "~", "0x1f", "1_0", "12:30", "", " a "]
    + [
        "2024-01-01",
        "a: b",
        "- a",
        "#a",
        "'",
        '"',
        "\n",
        "%",
        "!x",
        "&a",
        "*a",
        "=",
        "<<",
    ]
)
ships = st.builds(
    Ship,
    name=texts | awkward,
    crew=st.integers(1, 10**9),
    home_port=st.none() | texts | awkward,
    armed=st.just(False),
    fast=st.booleans(),
    engine=st.builds(
        Engine,
        speed=st.floats(0, allow_infinity=False),
        kind=st.sampled_from(["sail", "steam"]),
        spare=st.sampled_from([None, "oar"]),
    ),
)


class TestRoundTrip:
    @given(ships)
    @settings(max_examples=tiny.examples(150))
    def test_to_dict_and_back(self, config):
        flat = to_dict(config)
        assert list(flat) == [field.name for field in leaves(Ship)]
        assert from_dict(Ship, flat) == config

    @given(ships)
    @settings(max_examples=tiny.examples(150))
    def test_yaml_and_back(self, tmp_path_factory, config):
        file = tmp_path_factory.getbasetemp() / "round-trip.yaml"
        file.write_bytes(dump_yaml(config).encode())
        assert read_yaml(file) == to_dict(config)
        assert from_dict(Ship, read_yaml(file)) == config

    def test_yaml_has_the_flags_names_in_order(self):
        lines = dump_yaml(Ship()).splitlines()
        names = [line.split(":")[0] for line in lines]
        assert names == [field.name for field in leaves(Ship)]
        assert "engine" not in names
        assert len(names) == len(dataclasses.fields(Ship)) - 1 + 3


@dataclass(frozen=True)
class Fleet:
    """Several ships."""

    names: tuple[str, ...] = option(("Ada", "Bea"), "painted on them", "NAME")
    crews: tuple[int, ...] = option((), "people on each", "N,...")
    speed: float = like(Engine, "speed", 5.0)


class TestSeveral:
    def test_words_and_commas_and_yaml_lists(self, tmp_path):
        found = parse(Fleet, "fleet", ["--names", "Cy", "Di,Eve", "--crews", "1,2"])
        assert found == Fleet(("Cy", "Di", "Eve"), (1, 2))
        file = yaml_file(tmp_path, dump_yaml(found))
        assert parse(Fleet, "fleet", ["--config", file]) == found
        file = yaml_file(tmp_path, "crews: 4\nnames: [Flo]\n")
        assert parse(Fleet, "fleet", ["--config", file]) == Fleet(("Flo",), (4,))

    def test_defaults_are_shown_as_they_would_be_typed(self):
        rows = markdown(Fleet).splitlines()
        assert "| `--names` | `Ada Bea` | painted on them |" in rows
        assert "| `--crews` |  | people on each |" in rows

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"crews": "1,x"}, "crews: expected ints, got '1,x'"),
            ({"crews": [1, True]}, "crews: expected int, got True"),
            ({"names": [3]}, "names: expected str, got 3"),
        ],
    )
    def test_a_part_of_the_wrong_type(self, values, message):
        with pytest.raises(ConfigError) as error:
            from_dict(Fleet, values)
        assert str(error.value) == message

    def test_an_option_like_another_has_its_help(self):
        (field,) = [f for f in dataclasses.fields(Fleet) if f.name == "speed"]
        assert field.metadata["help"] == "in knots, 50 % at night"
        assert Fleet().speed == 5.0
        assert Engine().speed == 2.5


class TestUnusable:
    """What no library takes is refused where options are read, whatever the option."""

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
    def test_numbers_that_are_not_finite(self, value):
        with pytest.raises(ConfigError, match=r"^--speed .*must be a finite number$"):
            from_dict(Ship, {"name": "a", "speed": value})

    @pytest.mark.parametrize("value", [2**63, 2**64, -(2**63)])
    def test_whole_numbers_that_are_too_large(self, value):
        with pytest.raises(ConfigError) as caught:
            from_dict(Ship, {"name": "a", "crew": value})
        assert str(caught.value) == f"--crew {value} must be at most {2**63 - 1}"

    @pytest.mark.parametrize("value", ["a\0b", "latin-\udce9", "\ud83d"])
    def test_texts(self, value):
        with pytest.raises(ConfigError, match="^--name .*(NUL|not UTF-8)"):
            from_dict(Ship, {"name": value})


@dataclass(frozen=True)
class Ferry:
    """A ferry, which has to be somewhere."""

    home_port: str | None = option(None, "where it belongs")
    boats: int = option(1, "on its deck")

    def problems(self):
        if self.home_port is None:
            yield "--home-port is missing"
        if self.boats < 1:
            yield f"--boats {self.boats} must be at least 1"


def test_of_what_is_refused_nothing_untrue_is_said_besides():
    with pytest.raises(ConfigError) as error:
        from_dict(Ferry, {"home_port": "a\0b", "boats": 0})
    assert str(error.value).splitlines() == [
        "--home-port 'a\\x00b' must not hold a NUL character",
        "--boats 0 must be at least 1",
    ]
    assert problems({"armed": True, "kind": "oars"}) == [
        "kind: 'oars' is none of sail, steam"
    ]
