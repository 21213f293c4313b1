"""Tells the state of a federation, and what a push would send, as plain values."""

from __future__ import annotations

import dataclasses
from typing import Any

from comigs_mlx.federation.aggregation import aggregate
from comigs_mlx.federation.exchanges.base import Exchange
from comigs_mlx.federation.formats import adapter
from comigs_mlx.federation.formats.contribution import (
    CONTRIBUTION,
    METADATA_BYTES,
    Prepared,
    Privacy,
)
from comigs_mlx.federation.formats.strict_json import parse
from comigs_mlx.federation.formats.tensor_file import read_layout, specs
from comigs_mlx.federation.formats.tensor_source import digest
from comigs_mlx.federation.rounds import (
    attribution,
    closing,
    pull_requests,
    reviewing,
    verification,
)
from comigs_mlx.federation.rounds.repository import Federation
from comigs_mlx.federation.rounds.verification import Trust
from comigs_mlx.tensors import from_bytes


def status(exchange: Exchange, federation: Federation, now: float) -> dict[str, Any]:
    """Return manifest, round, contributions to the open round and proposals, all
    judged.

    Args:
        exchange: The repository to read; contributions and pull requests are downloaded
            and checked.
        federation: The state of the federation to act on, from `repository.current`.
        now: The present time, in seconds since the epoch.
    """
    files, choice = federation.snapshot.files, federation.manifest.aggregator
    trust = _trust(exchange, federation)
    at = closing.fair(exchange, federation, now)
    unverified = dataclasses.replace(federation, trust=Trust(everything=True))
    problem = next(aggregate.problems(choice.name, choice.options), None)
    if problem is None:
        contributions = _judged(exchange, unverified)
        verdicts = list(pull_requests.verdicts(exchange, unverified))
    else:
        contributions, verdicts = _listed(federation, problem), []
    accepted = sum(contribution["accepted"] for contribution in contributions.values())
    generalist = sum(files[p].size for p in adapter.paths(federation.manifest))
    return {
        "uri": exchange.uri,
        "manifest": dataclasses.asdict(federation.manifest),
        "round": dataclasses.asdict(federation.round),
        "open_round": federation.open_round,
        "due": closing.is_due(federation, accepted, at),
        "problem": problem,
        "trust": trust,
        "contributions": contributions,
        "proposals": [verdict.as_dict() for verdict in verdicts],
        "bytes": {
            "generalist": generalist,
            "contributions": sum(
                contribution["bytes"] for contribution in contributions.values()
            ),
            "repository": sum(file.size for file in files.values()),
        },
    }


def _judged(exchange: Exchange, federation: Federation) -> dict[str, dict[str, Any]]:
    """Judge each participant's contribution to the open round."""
    with closing.review(exchange, federation) as review:
        accepted = {source.name for source in review.accepted}
        return {
            name: {
                "accepted": name in accepted,
                "reason": review.refused.get(name),
                "clipped": review.clipped.get(name),
                "bytes": size,
                "privacy": _plain(review.privacy.get(name)),
            }
            for name, size in review.size.items()
        }


def _listed(federation: Federation, problem: str) -> dict[str, dict[str, Any]]:
    """List what `_judged` does, if this version cannot judge the round at all."""
    unknown = {"accepted": False, "reason": problem, "clipped": None, "privacy": None}
    sizes_of = reviewing.candidates(federation.snapshot, federation.open_round)
    return {
        name: {**unknown, "bytes": sum(sizes.values())}
        for name, sizes in sizes_of.items()
    }


def _trust(exchange: Exchange, federation: Federation) -> dict[str, Any]:
    """Tell which accounts could have changed what, and whether rounds were computed
    again.
    """
    snapshot = federation.snapshot
    values = verification.fetch(exchange, snapshot.revision, federation.manifest)
    problem, computed_again = verification.judge(exchange, federation, Trust(), values)
    owner, is_shown = attribution.founder(exchange, snapshot)
    return {
        "id": federation.manifest.id,
        "founder": attribution.manifest_owner(exchange, snapshot),
        "founder_shown_by_history": is_shown and owner is not None,
        "manifest_changed_by": attribution.stranger(exchange, snapshot),
        "closed_by": verification.closer(exchange, federation),
        "generalist": digest(values),
        "computed_again": computed_again,
        "problem": problem,
    }


def table(values: dict[str, Any]) -> str:
    """Write `status` as text for users."""
    round, manifest = values["round"], values["manifest"]
    rows = [
        f"{values['uri']}: round {round['round']} is closed, "
        f"round {values['open_round']} is open",
        f"base model {manifest['base_model']['id']!a}, quorum {manifest['quorum']}, "
        f"aggregator {manifest['aggregator']['name']}",
        f"last round: {', '.join(round['contributors']) or 'nobody yet'}",
    ]
    if values["problem"] is not None:
        rows.append(f"this version cannot close the round: {values['problem']}")
    rows += trusted(values["trust"])
    if round["inexactness"] is not None:
        rows.append(f"inexactness of the average: {round['inexactness']:.3g}")
    for name, entry in values["contributions"].items():
        fate = "accepted" if entry["accepted"] else f"refused: {entry['reason']}"
        if entry["clipped"] is not None:
            fate += f", clipped to {entry['clipped']:.0%}"
        if entry["privacy"] is not None:
            fate += f", {epsilon(entry['privacy'])}"
        rows.append(f"  {name}  {entry['bytes']:,} bytes  {fate}")
    rows += [proposal(entry) for entry in values["proposals"]]
    sizes = values["bytes"]
    rows.append(
        f"generalist {sizes['generalist']:,} bytes, contributions "
        f"{sizes['contributions']:,}, repository {sizes['repository']:,}"
    )
    return "\n".join(rows)


def trusted(values: dict[str, Any]) -> list[str]:
    """Tell the user what is checked here and what is taken on trust."""
    owner = values["founder"] or "nobody knows who"
    rows = [f"founded by {owner}; the generalist: {values['closed_by']}"]
    if values["problem"] is not None:
        rows.append(f"NOT TRUSTED: {values['problem']}")
    elif values["computed_again"]:
        rows.append("checked: the generalist is what its contributions make")
    else:
        rows.append(
            "not checked: it cannot be computed again here; everybody with the right "
            "to write is trusted with it"
        )
    if (stranger := values["manifest_changed_by"]) is not None:
        rows.append(f"NOT TRUSTED: federation.json was last changed by {stranger}")
    if not values["founder_shown_by_history"]:
        rows.append(
            "no history shows who founded it: that is taken on trust, and so is "
            "whatever those with the right to write have rewritten"
        )
    return rows


def proposal(values: dict[str, Any]) -> str:
    """Write one entry of `proposals` for users."""
    participant = values["participant"] or "nobody"
    fate = "fit" if values["accepted"] else f"refused: {values['reason']}"
    return (
        f"  proposal {values['number']} by {values['author']} for {participant}  {fate}"
    )


def epsilon(privacy: dict[str, Any]) -> str:
    """Write what a contribution states of its privacy, for users."""
    return f"epsilon {privacy['epsilon']:.3g} at delta {privacy['delta']:g}"


def _plain(privacy: Privacy | None) -> dict[str, Any] | None:
    return None if privacy is None else dataclasses.asdict(privacy)


def leaving(prepared: Prepared) -> dict[str, Any]:
    """Return everything that a push of `prepared` would send: each tensor and JSON
    field.
    """
    contents = prepared.files()
    tensors = {}
    for file, content in prepared.tensors.items():
        arrays = from_bytes(content)
        layout = read_layout(content, specs(arrays))
        tensors[file] = {n: e.spec.size for n, e in sorted(layout.entries.items())}
    return {
        "files": {file: len(content) for file, content in contents.items()},
        "tensors": tensors,
        CONTRIBUTION: parse(contents[CONTRIBUTION], METADATA_BYTES),
    }
