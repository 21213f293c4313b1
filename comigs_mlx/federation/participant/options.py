"""The options of `python -m comigs_mlx.sync`, one class for each action."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from comigs_mlx.config import group, option
from comigs_mlx.model.licence import normal
from comigs_mlx.options import PERSONAL, ExpertOptions, PrivacyOptions

TRUST = (
    "accept what was changed in the federation since, and what cannot be verified: "
    "look at sync status first"
)
FEDERATION = "hf://owner/repo, hf://owner/repo@branch, or a folder"


NORM_FACTOR, MOST_FACTOR = 3.0, 10**6


def wrong_norms(outsized: str, factor: float | None) -> Iterator[str]:
    """One sentence for each thing wrong with `--outsized` and `--norm-factor`."""
    if factor is None:
        return
    if not 1 <= factor <= MOST_FACTOR:
        yield f"--norm-factor {factor:g} is not from 1 to {MOST_FACTOR}"
    if outsized == "off":
        yield "--norm-factor has no effect with --outsized off: choose clip or refuse"


@dataclass(frozen=True)
class _Where:
    federation: str = option("", FEDERATION, "URI")
    json: bool = option(False, "print one JSON object")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.federation:
            yield f"--federation URI is missing: {FEDERATION}"


@dataclass(frozen=True)
class _WithRun(_Where):
    run: str = option("", "folder of the run", "DIR")
    participant: str | None = option(
        None, "your name in the federation: a-z, 0-9 and - (default: the last)", "NAME"
    )
    dry_run: bool = option(False, "say what would happen, and do nothing")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        yield from super().problems()
        if not self.run:
            yield "--run DIR is missing: the folder of a run"


@dataclass(frozen=True)
class InitConfig(_Where):
    """Make a federation, from a run's generalists or fresh ones for a base model."""

    run: str | None = option(None, "take the generalists of this run", "DIR")
    model: str | None = option(None, "or fresh ones for this base model", "ID|PATH")
    quorum: int = option(1, "contributions that close a round", "N")
    deadline: float | None = option(
        None, "after this long a round may close with fewer", "SECONDS"
    )
    aggregator: str = option(
        "mean",
        "a file of federation/aggregation/aggregators; with options: "
        "trimmed_mean:share=0.2, clipped_mean:factor=2, fedavgm:momentum=0.9,rate=0.1",
        "NAME[:key=value,...]",
    )
    outsized: Literal["clip", "refuse", "off"] = option(
        "clip",
        "what happens to an update that is longer than --norm-factor times the usual: "
        "it is clipped to that, refused, or taken as it is",
    )
    norm_factor: float | None = option(
        None,
        f"how many times the usual length (the round's median) an update may have "
        f"(default: {NORM_FACTOR:g})",
        "F",
    )
    encoding: Literal["fp16", "fp32", "int8"] = option("fp16", "of contributions")
    allow: str | None = option(
        None,
        "who may contribute (default: anyone); name=account ties a name to an account "
        "of the Hub",
        "NAME,...",
    )
    keys: str | None = option(
        None,
        "public keys of names in --allow, as sync key prints them; their contributions "
        "must be signed",
        "NAME=HEX,...",
    )
    require_signatures: bool = option(
        False, "everybody in --allow must have a key, and sign"
    )
    private: bool = option(False, "make a private repository")
    license: str | None = option(
        None,
        "licence of the shared generalist, such as apache-2.0 (default: the base "
        "model's, whose duties hold in any case)",
        "ID",
    )
    seed: int = option(0, "of fresh generalists", "N")
    dry_run: bool = option(False, "show federation.json, and make nothing")
    experts: ExpertOptions = group(ExpertOptions)

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        yield from super().problems()
        from comigs_mlx.federation.aggregation.aggregate import misnamed

        yield from misnamed(self.aggregator)
        yield from wrong_norms(self.outsized, self.norm_factor)
        if self.license is not None and normal(self.license) is None:
            yield f"--license {self.license!r} is no licence's name: write apache-2.0"
        if (self.run is None) == (self.model is None):
            yield "init needs either --run DIR or --model ID|PATH"
        if self.require_signatures and self.keys is None:
            yield "--require-signatures needs --allow NAME,... and --keys NAME=HEX,..."


@dataclass(frozen=True)
class StatusConfig(_Where):
    """Show round, manifest, contributions and proposals: accepted, or why not."""


@dataclass(frozen=True)
class PullConfig(_WithRun):
    """Replace a run's generalists by the federation's; nothing else of it changes."""

    trust: bool = option(False, TRUST)
    personal: Literal["by_loss"] | None = option(None, PERSONAL)
    if_better: bool = option(
        False,
        "keep what the run has where the new generalists make it worse than those of "
        "the round before, on its validation text and beyond the 95 % interval",
    )
    back: int | None = option(
        None,
        "instead, give the run what is kept on this device again: the generalist of a "
        "round, or below 0 (--back=-1) its own of before a pull",
        "N",
    )

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if self.back is None:
            yield from super().problems()
            return
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        if self.personal is not None:
            yield "--personal has no effect with --back: drop one of them"
        if self.if_better:
            yield "--if-better has no effect with --back: drop one of them"


@dataclass(frozen=True)
class PushConfig(_WithRun):
    """Contribute a run's generalists to the open round; close it if it is due."""

    create_pr: bool = option(False, "propose it, where you have no right to write")
    trust: bool = option(False, TRUST)
    privacy: PrivacyOptions = group(PrivacyOptions)


@dataclass(frozen=True)
class MergeConfig(_Where):
    """Accept the proposals that are fit, and close the open round if it is due."""

    trust: bool = option(False, TRUST)
    dry_run: bool = option(False, "say what would happen, and do nothing")


@dataclass(frozen=True)
class KeyConfig:
    """Print your public key, for --keys of init; it is made if there is none."""

    json: bool = option(False, "print one JSON object")
