"""`python -m comigs_mlx.sync`: improve one another's generalists, without a server."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from comigs_mlx import command
from comigs_mlx.config import parse
from comigs_mlx.federation.participant.options import (
    InitConfig,
    KeyConfig,
    MergeConfig,
    PullConfig,
    PushConfig,
    StatusConfig,
)

if TYPE_CHECKING:
    from comigs_mlx.federation.exchanges.base import Exchange
    from comigs_mlx.federation.exchanges.metered import Metered


PATIENCE = 60.0
"""Seconds to go on trying for, while somebody waits."""


def main(argv: Sequence[str] | None = None) -> None:
    """Do one of init, status, pull, push, merge, key."""
    summaries = {name: str(kind.__doc__) for name, (kind, _) in ACTIONS.items()}
    given = (argv, "comigs_mlx.sync", summaries, "--federation URI")
    action, flags = command.action(*given)
    kind, run = ACTIONS[action]
    config = parse(kind, f"comigs_mlx.sync {action}", flags)
    result, text = run(config)
    command.show(json.dumps(result) if config.json else text)


def _open(config: Any) -> tuple[Exchange, Metered]:
    """The federation's exchange, and the same as the counter of its bytes."""
    from comigs_mlx.federation.exchanges.metered import Metered
    from comigs_mlx.federation.exchanges.open import open_exchange

    metered = Metered(
        open_exchange(config.federation, patience=PATIENCE, say=command.say)
    )
    return cast("Exchange", metered), metered


def _init(config: InitConfig) -> tuple[Any, str]:
    from comigs_mlx.federation import api
    from comigs_mlx.federation.formats.schema import to_dict
    from comigs_mlx.federation.participant import init
    from comigs_mlx.model.licence import Licence

    exchange, _ = _open(config)
    made = init.founding(config, command.say)
    for duty in Licence(made.manifest.base_license).duties:
        command.say(duty)
    if config.dry_run:
        return to_dict(made.manifest), made.manifest.to_json().decode().rstrip()
    if config.run is not None:
        command.say(api.trained_secrets(Path(config.run)))
    manifest = init.found(made, exchange, config.private, time.time()).manifest
    line = api.invitation(exchange.uri, manifest)
    return to_dict(manifest), f"{exchange.url()}\n{line}"


def _status(config: StatusConfig) -> tuple[Any, str]:
    from comigs_mlx.federation import api
    from comigs_mlx.federation.rounds import status

    values = api.overview(_open(config)[0])
    return values, status.table(values)


def _pull(config: PullConfig) -> tuple[Any, str]:
    from comigs_mlx.federation import api
    from comigs_mlx.federation.rounds import repository

    run = Path(config.run).expanduser()
    if config.back is not None:
        api.roll_back(run, config.back)
        return {
            "back": config.back
        }, f"{run} has again: {api.kept_as(run)[config.back]}"
    exchange, metered = _open(config)
    if config.dry_run:
        number = repository.current(exchange).round.round
        text = f"would pull {_pulled(number, config.personal)}"
        unless = ", unless it makes this run worse" if config.if_better else ""
        return {"round": number}, text + unless
    pulled = api.pull(
        run,
        exchange,
        config.participant,
        config.trust,
        command.say,
        config.personal,
        config.if_better,
    )
    what, counts = "now has" if pulled.changed else "has already", _counts(metered)
    text = f"{run} {what} {_pulled(pulled.round, pulled.personal)}{_traffic(counts)}"
    if pulled.refused is not None:
        kept = f"{run} keeps what it has: {pulled.refused.sentence}"
        text = f"{kept}{_traffic(counts)}"
    return {**dataclasses.asdict(pulled), **counts}, text


def _pulled(round: int, personal: str | None) -> str:
    if personal is None:
        return f"the generalist of round {round}"
    return f"its own generalist, {personal} of the contributions to round {round}"


def _push(config: PushConfig) -> tuple[Any, str]:
    from comigs_mlx.federation import api
    from comigs_mlx.federation.rounds import status

    exchange, metered = _open(config)
    run, name = Path(config.run).expanduser(), config.participant
    if config.dry_run:
        leaving = api.leaving(run, exchange, name, config.privacy)
        for line in [api.trained_secrets(run), *api.remarks(leaving)]:
            command.say(line)
        return leaving, json.dumps(leaving, indent=2)
    result = api.push(
        run,
        exchange,
        name,
        config.privacy,
        config.create_pr,
        command.say,
        config.trust,
    )
    for line in api.remarks(result):
        command.say(line)
    if config.create_pr:
        text = f"{'proposed' if result['new'] else 'proposed before'}: {result['url']}"
    else:
        text = f"contributed to round {result['round']} as {result['participant']}"
    result |= (counts := _counts(metered))
    text += _traffic(counts)
    if stated := result["contribution.json"]["privacy"]:
        text += f"; {status.epsilon(stated)} spent so far"
    return result, text + ("; the round is closed: pull" if result["closed"] else "")


def _counts(metered: Metered) -> dict[str, int]:
    sent, received = metered.take()
    return {"bytes_sent": sent, "bytes_received": received}


def _traffic(counts: dict[str, int]) -> str:
    sent, received = counts["bytes_sent"], counts["bytes_received"]
    return f" ({sent:,} bytes sent, {received:,} received)"


def _merge(config: MergeConfig) -> tuple[Any, str]:
    from comigs_mlx.federation import api
    from comigs_mlx.federation.rounds import status

    exchange, _ = _open(config)
    if config.dry_run:
        values = api.overview(exchange)
        due, found = values["due"], values["proposals"]
        lines = [*map(status.proposal, found), "due" if due else "not due"]
        return {"due": due, "proposals": found}, "\n".join(lines)
    done = api.close(exchange, command.say, config.trust)
    end = f"round {done.round} is {'closed' if done.closed else 'not due yet'}"
    text = "\n".join([*map(status.proposal, done.proposals), end])
    return dataclasses.asdict(done), text


def _key(config: KeyConfig) -> tuple[Any, str]:
    from comigs_mlx.federation.formats import signatures

    del config
    public = signatures.public_key(signatures.load_key())
    return {"public_key": public, "file": str(signatures.key_file())}, public


Action = tuple[type[Any], Callable[[Any], tuple[Any, str]]]
ACTIONS: dict[str, Action] = {
    "init": (InitConfig, _init),
    "status": (StatusConfig, _status),
    "pull": (PullConfig, _pull),
    "push": (PushConfig, _push),
    "merge": (MergeConfig, _merge),
    "key": (KeyConfig, _key),
}


if __name__ == "__main__":
    command.run(main)
