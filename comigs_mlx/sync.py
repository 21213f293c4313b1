"""`python -m comigs_mlx.sync`: improve one another's generalists, without a server."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comigs_mlx import command
from comigs_mlx.config import parse
from comigs_mlx.errors import ConfigError
from comigs_mlx.federation.options import (
    InitConfig,
    MergeConfig,
    PullConfig,
    PushConfig,
    StatusConfig,
)

if TYPE_CHECKING:
    from comigs_mlx.federation.exchange import Exchange
    from comigs_mlx.federation.manifest import Manifest, Member
    from comigs_mlx.federation.rounds import Federation


def main(argv: Sequence[str] | None = None) -> None:
    """Do one of init, status, pull, push, merge."""
    action, *flags = [*(sys.argv[1:] if argv is None else argv)] or [""]
    if action in ("-h", "--help"):
        command.show(_usage())
        sys.exit(command.OK)
    if action not in ACTIONS:
        raise ConfigError(f"{action!r} is none of {', '.join(ACTIONS)} (see --help)")
    kind, run = ACTIONS[action]
    config = parse(kind, f"comigs_mlx.sync {action}", flags)
    from comigs_mlx.federation.exchange import open_exchange

    result, text = run(config, open_exchange(config.federation, say=command.say))
    command.show(json.dumps(result) if config.json else text)


def _usage() -> str:
    lines = [f"  {name:8}{kind.__doc__}" for name, (kind, _) in ACTIONS.items()]
    head = "usage: python -m comigs_mlx.sync ACTION --federation URI [...]"
    tail = "python -m comigs_mlx.sync ACTION --help shows the flags of each"
    return "\n".join([head, "", *lines, "", tail])


def _init(config: InitConfig, exchange: Exchange) -> tuple[Any, str]:
    from comigs_mlx.federation import local, rounds
    from comigs_mlx.federation.schema import to_dict

    if config.run is not None:
        origin = local.of_run(Path(config.run).expanduser())
    else:
        assert config.model is not None
        options = config.experts.resolved()
        origin = local.of_model(config.model, options, config.seed, command.say)
    manifest = _manifest(config, origin)
    agreed = to_dict(manifest)
    if config.dry_run:
        return agreed, manifest.to_json().decode().rstrip()
    made = rounds.initialise(
        exchange, manifest, origin.generalists, time.time(), config.private
    )
    if config.run is not None:
        run = Path(config.run).expanduser()
        local.remember(run, exchange.uri, made, None, origin.step)
    return agreed, exchange.url()


def _manifest(config: InitConfig, origin: Any) -> Manifest:
    from comigs_mlx.federation.manifest import AggregatorChoice, Manifest, cap
    from comigs_mlx.federation.sources import Arrays, shapes

    return Manifest(
        origin.base,
        origin.experts,
        max_bytes=cap(shapes(Arrays("", origin.generalists))),
        aggregator=AggregatorChoice(config.aggregator),
        quorum=config.quorum,
        deadline_seconds=config.deadline,
        participants=None if config.allow is None else _members(config.allow),
        encoding=config.encoding,
    )


def _members(allow: str) -> dict[str, Member]:
    from comigs_mlx.federation.manifest import Member

    pairs = (part.strip().partition("=") for part in allow.split(","))
    return {name: Member(account or None) for name, _, account in pairs}


def _status(config: StatusConfig, exchange: Exchange) -> tuple[Any, str]:
    from comigs_mlx.federation import rounds, status

    values = status.status(exchange, rounds.current(exchange), time.time())
    return values, status.table(values)


def _pull(config: PullConfig, exchange: Exchange) -> tuple[Any, str]:
    from comigs_mlx.federation import local, rounds

    federation, run = rounds.current(exchange), Path(config.run).expanduser()
    number = federation.round.round
    if config.dry_run:
        return {"round": number}, f"would pull the generalist of round {number}"
    changed = local.pull(run, exchange, federation, config.participant)
    what = "now has" if changed else "has already"
    text = f"{run} {what} the generalist of round {number}"
    return {"round": number, "changed": changed}, text


def _push(config: PushConfig, exchange: Exchange) -> tuple[Any, str]:
    from comigs_mlx.federation import contributing, local, rounds, status

    federation, run = rounds.current(exchange), Path(config.run).expanduser()
    name = _name(config, run)
    contributing.check_participant(exchange, federation, name)
    prepared, before = local.prepare(run, exchange, federation, name)
    leaving = status.leaving(prepared)
    if config.dry_run:
        return leaving, json.dumps(leaving, indent=2)
    result: dict[str, Any] = {
        "round": federation.open_round,
        "closed": False,
        **leaving,
    }
    if config.create_pr:
        changes = contributing.contribution_changes(federation, prepared)
        title = f"Contribute to round {federation.open_round}: {name}"
        result["url"] = text = exchange.propose(changes, title)
    else:
        contributing.contribute(exchange, federation, prepared)
        text = f"contributed to round {federation.open_round} as {name}"
    local.contributed(run, exchange.uri, name, prepared, before)
    if not config.create_pr:
        result["closed"] = _closed(exchange, rounds.current(exchange), federation)
        text += "; the round is closed: pull" if result["closed"] else ""
    return result, text


def _closed(exchange: Exchange, now: Federation, before: Federation) -> bool:
    from comigs_mlx.federation import closing

    if now.open_round > before.open_round:
        return True
    return closing.close_if_due(exchange, now, time.time()) is not None


def _name(config: PushConfig, run: Path) -> str:
    from comigs_mlx.federation import membership

    record = membership.read(run)
    name = config.participant or (record.participant if record else None)
    if name is None:
        raise ConfigError("--participant NAME is missing: your name in the federation")
    return name


def _merge(config: MergeConfig, exchange: Exchange) -> tuple[Any, str]:
    from comigs_mlx.federation import rounds, status

    federation = rounds.current(exchange)
    if config.dry_run:
        values = status.status(exchange, federation, time.time())
        return {"due": values["due"]}, "due" if values["due"] else "not due"
    closed = _closed(exchange, federation, federation)
    text = f"round {federation.open_round} is {'closed' if closed else 'not due yet'}"
    return {"round": federation.open_round, "closed": closed}, text


Action = tuple[type[Any], Callable[[Any, Any], tuple[Any, str]]]
ACTIONS: dict[str, Action] = {
    "init": (InitConfig, _init),
    "status": (StatusConfig, _status),
    "pull": (PullConfig, _pull),
    "push": (PushConfig, _push),
    "merge": (MergeConfig, _merge),
}


if __name__ == "__main__":
    command.run(main)
