"""Founds a federation: what is put into federation.json, and into the repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from comigs_mlx.errors import ConfigError
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.exchanges.base import Exchange, Say
from comigs_mlx.federation.formats.manifest import (
    AggregatorChoice,
    Manifest,
    Member,
    cap,
)
from comigs_mlx.federation.formats.tensor_source import Arrays, shapes
from comigs_mlx.federation.participant import pull_push, round_history
from comigs_mlx.federation.participant.options import NORM_FACTOR, InitConfig
from comigs_mlx.federation.participant.pull_push import Origin
from comigs_mlx.federation.rounds import repository
from comigs_mlx.federation.rounds.repository import Federation
from comigs_mlx.model.licence import normal


@dataclass(frozen=True)
class Founding:
    """A federation that is not made yet.

    Attributes:
        manifest: What its participants are to agree on.
        origin: The base model and the generalists that it begins with.
        run: The folder of the run that they are of; None for fresh ones.
    """

    manifest: Manifest
    origin: Origin
    run: Path | None


def founding(config: InitConfig, say: Say) -> Founding:
    """Prepare a federation; nothing is written or sent.

    Args:
        config: The options of `sync init`.
        say: It is told what takes time.

    Raises:
        ComigsError: If the run, the base model or an option cannot be used.
    """
    if config.run is not None:
        run = Path(config.run).expanduser()
        origin = pull_push.of_run(run)
        return Founding(manifest(config, origin), origin, run)
    assert config.model is not None
    options = config.experts.resolved()
    origin = pull_push.of_model(config.model, options, config.seed, say)
    return Founding(manifest(config, origin), origin, None)


def found(made: Founding, exchange: Exchange, private: bool, now: float) -> Federation:
    """Make a federation, and let the run that it begins with take part in it.

    What the run has learnt until then is kept on this device, as before a first pull.

    Args:
        made: What `founding` has prepared.
        exchange: The empty repository.
        private: Whether to make a private repository.
        now: The present time, in seconds since the epoch.

    Raises:
        FederationError: If there is another federation, or it cannot be written.
    """
    origin = made.origin
    federation = repository.initialise(
        exchange, made.manifest, origin.generalists, now, private
    )
    if made.run is not None:
        if origin.step > 0:
            kept = origin.generalists, origin.step
            round_history.keep_own(made.run, *kept, joining=True)
        pull_push.remember(made.run, exchange.uri, federation, None, origin.step)
    return federation


def manifest(config: InitConfig, origin: Origin) -> Manifest:
    """The manifest for these options and generalists.

    Raises:
        ConfigError: If `--allow` and `--keys` cannot be read or do not fit.
    """
    return Manifest(
        origin.base,
        origin.experts,
        max_bytes=cap(shapes(Arrays("", origin.generalists))),
        aggregator=AggregatorChoice(*aggregate.parse(config.aggregator)),
        quorum=config.quorum,
        deadline_seconds=config.deadline,
        participants=members(config.allow, config.keys),
        encoding=config.encoding,
        norm_action=config.outsized,
        norm_factor=config.norm_factor or NORM_FACTOR,
        require_signatures=config.require_signatures,
        license=normal(config.license) or origin.licence,
        base_license=origin.licence,
    )


def members(allow: str | None, keys: str | None) -> dict[str, Member] | None:
    """Participant -> account and public key; None: anyone.

    Args:
        allow: Who may contribute, as `name,name=account,...`; None means anyone.
        keys: The public keys, as `name=HEX,...`, of names in `allow`.

    Raises:
        ConfigError: If a name comes twice, lacks its key, or is not in `allow`.
    """
    accounts, public = _pairs("--allow", allow), _pairs("--keys", keys)
    if strangers := sorted(public.keys() - accounts.keys()):
        raise ConfigError(
            f"--keys has {strangers[0]}, --allow has not: list there all who may "
            "contribute"
        )
    for name, key in public.items():
        if key is None:
            raise ConfigError(f"--keys {name}: write {name}=HEX, as sync key prints it")
    listed = {name: Member(accounts[name], public.get(name)) for name in accounts}
    return None if allow is None else listed


def _pairs(flag: str, text: str | None) -> dict[str, str | None]:
    pairs: dict[str, str | None] = {}
    for part in [] if text is None else text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name in pairs:
            raise ConfigError(f"{flag} has {name} twice: give each name once")
        pairs[name] = value or None
    return pairs
