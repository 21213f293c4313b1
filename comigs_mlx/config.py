"""Options: one dataclass field makes the flag, its default, its help and the YAML key.

Groups of options are frozen dataclasses; a command's configuration is one dataclass
whose fields are groups or options. The YAML form is flat, with the flags' names, so
that the `config.yaml` of a run can be given back with `--config`; flags win over it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from comigs_mlx import registry
from comigs_mlx.errors import ConfigError, line, raise_all
from comigs_mlx.invocation import as_called, called

T = TypeVar("T")

LARGEST = 2**63 - 1
"""Of a whole number: what MLX, NumPy and the files take."""

FLAG = re.compile(r"--[a-z][a-z0-9-]*")
"""A flag in a sentence."""


def option(
    default: Any,
    help: str,
    metavar: str | None = None,
    most: int = LARGEST,
    also: str | None = None,
) -> Any:
    """A dataclass field that is also a command-line option.

    Args:
        default: Its value where none is given.
        help: The sentence that `--help` shows.
        metavar: What stands for the value there.
        most: Of whole numbers; the least is the business of `problems`, which knows
            what it means.
        also: A second name, by which another program calls the same.
    """
    said = {"help": help, "metavar": metavar, "most": most, "also": also}
    return dataclasses.field(default=default, metadata=said)


def like(kind: type[Any], name: str, default: Any = dataclasses.MISSING) -> Any:
    """The option `name` of another class once more, maybe with another default."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    chosen = field.default if default is dataclasses.MISSING else default
    return dataclasses.field(default=chosen, metadata=field.metadata)


def group(kind: type[T]) -> T:
    """A dataclass field that holds a group of options."""
    field: T = dataclasses.field(default_factory=kind)
    return field


def leaves(kind: type[Any]) -> Iterator[dataclasses.Field[Any]]:
    """Every option of a configuration class, through its groups, in order."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from leaves(typing.cast("type[Any]", hints[field.name]))
        else:
            yield field


def to_dict(config: Any) -> dict[str, Any]:
    """The flat form of a configuration: option name -> value, as YAML holds it."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= to_dict(value)
        else:
            flat[field.name] = list(value) if isinstance(value, tuple) else value
    return flat


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a configuration from its flat form; missing options keep their default.

    Raises:
        ConfigError: For unknown names and values that cannot work, all at once.
    """
    known = {field.name for field in leaves(kind)}
    refused = {name: f"unknown option {name!r}" for name in values if name not in known}
    config = _build(kind, values, refused)
    # What is refused keeps its default, of which nothing is to be said.
    flags = {f"--{name.replace('_', '-')}" for name in refused}
    more = [p for p in _problems(config) if flags.isdisjoint(FLAG.findall(p))]
    raise_all(ConfigError, [*refused.values(), *more])
    return config


class Configured(NamedTuple):
    """A plugin's name, and its options.

    Attributes:
        name: What `registry.load` finds it by.
        given: The options that were set, by name.
        options: An instance of the module's `Options`; None where it was not needed.
    """

    name: str
    given: dict[str, Any]
    options: Any

    @property
    def every(self) -> dict[str, Any]:
        """All options by name, also those that were not set."""
        return {} if self.options is None else dataclasses.asdict(self.options)


def configured(kind: str, text: str, always: bool = False) -> Configured:
    """A plugin and its options, written `NAME` or `NAME:key=value,key=value`.

    The module says what its options are in a dataclass `Options` of `option` fields. It
    is imported where options are given, and only then unless `always`.

    Args:
        kind: A key of `registry.KINDS`.
        text: What the user wrote.
        always: Whether the defaults are wanted, too.

    Raises:
        ConfigError: If there is no such plugin, or it has no such options.
    """
    name, given = registry.parse(text)
    if name not in (known := registry.names(kind)):
        raise ConfigError(f"unknown {kind} {name!r}: choose one of {', '.join(known)}")
    if not (given or always):
        return Configured(name, given, None)
    options = getattr(registry.load(kind, name), "Options", None)
    if options is None and given:
        raise ConfigError(f"{text}: {name} has no options: write {name} alone")
    try:
        return Configured(name, given, options and from_dict(options, given))
    except ConfigError as error:
        raise ConfigError(f"{text}: {error}") from error


def written(name: str, given: Mapping[str, Any]) -> str:
    """What `configured` reads as this plugin with these options."""
    words = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in given.items()
    ]
    return f"{name}:{','.join(words)}" if words else name


def _build(kind: type[T], values: Mapping[str, Any], refused: dict[str, str]) -> T:
    """A `kind` from `values`; one of the wrong type is noted and keeps its default."""
    hints = typing.get_type_hints(kind)
    chosen: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            inner = typing.cast("type[Any]", hint)
            chosen[field.name] = _build(inner, values, refused)
        elif field.name in values:
            most = field.metadata.get("most", LARGEST)
            try:
                value = _checked(field.name, hint, values[field.name], most)
                chosen[field.name] = value
            except ConfigError as error:
                refused[field.name] = str(error)
    return kind(**chosen)


def _problems(config: Any) -> Iterator[str]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _problems(value)
    if hasattr(config, "problems"):
        yield from config.problems()


def _alternatives(hint: Any) -> tuple[Any, bool]:
    """The type behind an annotation, and whether None is allowed too."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in parts if part is not type(None)), True
    return hint, False


def _checked(name: str, hint: Any, value: Any, most: int = LARGEST) -> Any:
    """`value` as the type of its option.

    Args:
        name: The name of the option.
        hint: The annotation of its field.
        value: The value as the user gave it.
        most: The largest whole number that it takes.

    Raises:
        ConfigError: If it is not of that type, or nothing could be done with it.
    """
    kind, optional = _alternatives(hint)
    if value is None and optional:
        return None
    if typing.get_origin(kind) is tuple:
        return _several(name, typing.get_args(kind)[0], value, most)
    if choices := typing.get_args(kind):
        if value not in choices:
            raise ConfigError(f"{name}: {value!r} is none of {', '.join(choices)}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= LARGEST else math.inf
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{name}: expected {kind.__name__}, got {value!r}")
    if (problem := _unusable(value, most)) is not None:
        raise ConfigError(f"--{name.replace('_', '-')} {problem}")
    return value


def _unusable(value: Any, most: int) -> str | None:
    """Why nobody can use such a value, whatever the option is for; None for others."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} must be a finite number"
    if isinstance(value, int) and (value > most or value < -LARGEST):
        return f"{value} must be at most {most}"
    if isinstance(value, str):
        if "\0" in value:
            return f"{value!r} must not hold a NUL character"
        try:
            value.encode()
        except UnicodeEncodeError:  # bytes of the command line that are not UTF-8
            return f"{ascii(value)} is not UTF-8 text: rename it, or say it in UTF-8"
    return None


def _several(name: str, kind: type[Any], value: Any, most: int) -> tuple[Any, ...]:
    """A list, one value, or text with commas as a tuple of `kind`.

    Raises:
        ConfigError: If a part is not of that type.
    """
    given = value if isinstance(value, (list, tuple)) else [value]
    parts: list[Any] = []
    for item in given:
        parts += item.split(",") if isinstance(item, str) else [item]
    try:
        return tuple(
            _checked(
                name, kind, kind(part.strip()) if isinstance(part, str) else part, most
            )
            for part in parts
            if part != ""
        )
    except ValueError as error:
        raise ConfigError(
            f"{name}: expected {kind.__name__}s, got {value!r}"
        ) from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        """Leave argument errors to the caller, like every other bad input."""
        raise ConfigError(f"{message} (see --help)")


def parse(kind: type[T], module: str, argv: Sequence[str] | None = None) -> T:
    """Read a command's configuration from flags and, with `--config`, from YAML.

    Args:
        kind: The configuration class; its docstring is the text of `--help`.
        module: The command's module, for the usage line.
        argv: Arguments; by default those of the process.

    Raises:
        ConfigError: For unknown flags, keys or values.
    """
    return from_dict(kind, given(kind, module, argv))


def given(
    kind: type[Any], module: str, argv: Sequence[str] | None = None
) -> dict[str, Any]:
    """Only the options that flags or `--config` set, in flat form; flags win."""
    arguments = vars(_parser(kind, module).parse_args(argv))
    file = arguments.pop("config", None)
    named = read_yaml(Path(file)) if file else {}
    for field in leaves(kind):
        if (also := field.metadata.get("also")) in named:
            named.setdefault(field.name, named.pop(also))
    return {**named, **arguments}


def split(kind: type[T], module: str, argv: Sequence[str]) -> tuple[T, list[str]]:
    """Read a command's own options, and leave the others to another command.

    `--config` goes to the other one, which is expected to have it.

    Args:
        kind: The configuration class; its docstring is the text of `--help`.
        module: The command's module, for the usage line.
        argv: The arguments of both.

    Returns:
        The configuration, and the arguments that are none of its options.

    Raises:
        ConfigError: For values that cannot work.
    """
    known, others = _parser(kind, module).parse_known_args(argv)
    values = vars(known)
    file = values.pop("config", None)
    return from_dict(kind, values), [*(["--config", file] if file else []), *others]


def _parser(kind: type[Any], module: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=called(module),
        description=as_called(kind.__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="any of these options; flags win"
    )
    _add_options(parser, kind, parser)
    return parser


def _add_options(parser: argparse.ArgumentParser, kind: type[Any], target: Any) -> None:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            title = (hint.__doc__ or "").strip().split("\n")[0].rstrip(".")
            inner = parser.add_argument_group(title)
            _add_options(parser, typing.cast("type[Any]", hint), inner)
        else:
            _add_option(target, field, hint)


def _add_option(target: Any, field: dataclasses.Field[Any], hint: Any) -> None:
    kind, _ = _alternatives(hint)
    add = functools.partial(target.add_argument, *_flags(field), dest=field.name)
    text = field.metadata["help"].replace("%", "%%")
    if default := _shown(field.default):
        text += f" (default: {default})"
    metavar = field.metadata["metavar"] or field.name.upper()
    if kind is bool:
        add(action=argparse.BooleanOptionalAction, help=text)
    elif typing.get_origin(kind) is tuple:
        add(nargs="+", action="extend", metavar=metavar, help=text)
    elif choices := typing.get_args(kind):
        add(choices=choices, help=text)
    else:
        add(type=kind, metavar=metavar, help=text)


def _flags(field: dataclasses.Field[Any]) -> list[str]:
    names = [field.name, field.metadata.get("also")]
    return ["--" + name.replace("_", "-") for name in names if name]


def markdown(kind: type[Any]) -> str:
    """A table of all options of a configuration class, for the documentation."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for field in leaves(kind):
        flag = " or ".join(f"`{flag}`" for flag in _flags(field))
        shown = _shown(field.default)
        default = f"`{shown}`" if shown else ""
        rows.append(f"| {flag} | {default} | {field.metadata['help']} |")
    return "\n".join(rows)


def _shown(default: Any) -> str:
    """A default as a user would type it; empty where there is none."""
    if default is None or default is dataclasses.MISSING:
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _with_numbers(kind: type[T]) -> type[T]:
    """A YAML loader or dumper for which 1e-5 is a number, as for mlx-lm's loader."""
    number = re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+)[eE][-+]?\d+$")
    changed: Any = type(kind.__name__, (kind,), {})
    changed.add_implicit_resolver(
        "tag:yaml.org,2002:float", number, list("-+.0123456789")
    )
    return typing.cast("type[T]", changed)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a flat YAML mapping; dashes in its keys count as underscores.

    Raises:
        ConfigError: If the file is missing or is not a flat mapping.
    """
    import yaml

    try:
        content = yaml.load(
            path.read_text(encoding="utf-8"), _with_numbers(yaml.SafeLoader)
        )
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read configuration {path}: {line(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'option: value' lines")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def dump_yaml(config: Any) -> str:
    """The flat YAML of a configuration, readable by `read_yaml`; tuples are lists."""
    import yaml

    values = to_dict(config)
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    dumper = _with_numbers(yaml.SafeDumper)
    text: str = yaml.dump(plain, Dumper=dumper, sort_keys=False)
    return text


def check_new(out: Path) -> None:
    """Refuse an `--out` that is there already, so that nothing is overwritten.

    Args:
        out: The file or folder that a command is about to make.

    Raises:
        ConfigError: If something is there, be it a link that leads nowhere.
    """
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} exists: remove it, or choose another --out")
