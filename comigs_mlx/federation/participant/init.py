"""What `sync init` puts into federation.json."""

from __future__ import annotations

from comigs_mlx.errors import ConfigError
from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.formats.manifest import (
    AggregatorChoice,
    Manifest,
    Member,
    cap,
)
from comigs_mlx.federation.formats.tensor_source import Arrays, shapes
from comigs_mlx.federation.participant.options import NORM_FACTOR, InitConfig
from comigs_mlx.federation.participant.pull_push import Origin
from comigs_mlx.model.licence import normal


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
