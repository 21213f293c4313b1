"""What happens to a mixture's arrays when an expert is born or taken out.

Both are pure functions of arrays by path. Which arrays of a router have a row for each
expert, and how a row is split without a change of the output, the router's file says
(`model/routers`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import mlx.core as mx

from comigs_mlx.errors import ConfigError
from comigs_mlx.model import params
from comigs_mlx.model.routers import Split, router_kind, split_type
from comigs_mlx.model.routing import with_copy
from comigs_mlx.options import ExpertOptions
from comigs_mlx.training import trainer_state

Arrays = dict[str, mx.array]
"""Maps a path in the model to its array."""

FACTORED = "exp_avg_sq_row"
"""The name of the average that tells Adafactor's state from others."""


class Reshaping(Protocol):
    """A change of the number of experts.

    Attributes:
        fresh: Whether there is an expert afterwards that has yet to learn, so that the
            experts' learning rate begins anew.
    """

    fresh: ClassVar[bool]

    @property
    def options(self) -> ExpertOptions:
        """The options of the experts after the change."""

    def values(self, values: Mapping[str, mx.array]) -> Arrays:
        """Make the parameters after the change from those before."""

    def moments(self, moments: Mapping[str, mx.array]) -> Arrays:
        """Make an optimiser's averages after the change from those before."""

    def shares(self, shares: Sequence[float]) -> list[float]:
        """Make a number for each expert from those before; their sum stays."""

    def names(self, names: Sequence[str]) -> list[str]:
        """Say what these experts are called after the change, if they are there."""


@dataclass(frozen=True)
class Growth:
    """One more specialist, a copy of another one, whose birth changes no output.

    This is exact where every token uses all experts (k = E), as k grows with E then.
    Otherwise a token may use both copies in the place of another expert.

    Attributes:
        before: The options of the experts before it.
        expert: The index of the specialist that is copied, among all experts.
    """

    fresh: ClassVar[bool] = True

    before: ExpertOptions
    expert: int

    @property
    def options(self) -> ExpertOptions:
        """One specialist more, which each token uses if it used all before."""
        old = self.before.resolved()
        return dataclasses.replace(
            self.before,
            specialists=old.specialists + 1,
            top_k=old.top_k + int(old.top_k == old.experts),
            router_type=split_type(old.router_type),
        )

    def check(self) -> None:
        """Raise `ConfigError` unless an expert can be born."""
        if self.before.specialists < 1:
            raise ConfigError("the run has no specialist that could be copied")
        self._split()

    def _split(self) -> Split:
        """What splits a row of the router.

        Raises:
            ConfigError: If the router cannot be split.
        """
        found = router_kind(self.before.router_type).split
        if found is None:
            name = self.before.router_type.partition(":")[0]
            raise ConfigError(
                f"the router {name} cannot grow: no row of it can be split so that the "
                "output stays; train a new run with more --specialists"
            )
        return found

    def values(self, values: Mapping[str, mx.array]) -> Arrays:
        """Append the specialist's pairs again, and split its row in each router."""
        own = self.expert - self.before.generalists
        result = {
            path: with_copy(array, own) if _is_specialists(path, array) else array
            for path, array in values.items()
        }
        for router, rows in _routers(values, self.before):
            halves = self._split()(rows, self.expert)
            result |= {f"{router}.{name}": array for name, array in halves.items()}
        return result

    def moments(self, moments: Mapping[str, mx.array]) -> Arrays:
        """Append zeros: the new one has no past, and so goes its own way at once."""
        return {
            path: mx.concatenate([array, mx.zeros_like(array[:1])])
            if _has_rows(path, array, self.before)
            else array
            for path, array in moments.items()
        }

    def shares(self, shares: Sequence[float]) -> list[float]:
        """Divide the share of the one that is copied."""
        shares = list(shares)
        if shares:
            shares[self.expert] /= 2
            shares.append(shares[self.expert])
        return shares

    def names(self, names: Sequence[str]) -> list[str]:
        """All names stay; the new expert is the last one."""
        return list(names)


@dataclass(frozen=True)
class Pruning:
    """Some specialists are taken out, with their rows in the routers.

    Attributes:
        before: The options of the experts before it.
        out: The indices of the specialists that go, among all experts.
    """

    fresh: ClassVar[bool] = False

    before: ExpertOptions
    out: tuple[int, ...]

    @property
    def left(self) -> list[int]:
        """The indices of the experts that stay."""
        return [i for i in range(self.before.experts) if i not in self.out]

    @property
    def options(self) -> ExpertOptions:
        """So many specialists fewer; a token uses at most all that are left."""
        old = self.before.resolved()
        return dataclasses.replace(
            self.before,
            specialists=old.specialists - len(self.out),
            top_k=min(old.top_k, len(self.left)),
        )

    def check(self) -> None:
        """Raise `ConfigError` unless these experts can be taken out."""
        kind = router_kind(self.before.router_type)
        if not kind.rows:
            name = self.before.router_type.partition(":")[0]
            raise ConfigError(
                f"the router {name} does not say which of its parameters belong to "
                "one expert: no expert can be taken out of this run"
            )
        if not self.left:
            raise ConfigError("the last expert cannot be taken out")
        if any(i < self.before.generalists for i in self.out):
            raise ConfigError(
                "generalists belong to the federation's shape: only specialists can be "
                "taken out"
            )

    def values(self, values: Mapping[str, mx.array]) -> Arrays:
        """Leave out the rows of those that go."""
        first = self.before.generalists
        own, every = (mx.array(_from(self.left, n), mx.int32) for n in (first, 0))
        result = dict(values)
        for path, array in values.items():
            if _has_rows(path, array, self.before):
                result[path] = array[own if _is_specialists(path, array) else every]
        if len(self.out) == self.before.specialists:
            return {p: a for p, a in result.items() if not _is_specialists(p, a)}
        return result

    def moments(self, moments: Mapping[str, mx.array]) -> Arrays:
        """Leave out the rows of those that go."""
        return self.values(moments)

    def shares(self, shares: Sequence[float]) -> list[float]:
        """Leave out those that go, and give theirs to the others alike."""
        left = [shares[i] for i in self.left] if shares else []
        factor = sum(shares) / sum(left) if sum(left) else 0.0
        return [factor * share for share in left]

    def names(self, names: Sequence[str]) -> list[str]:
        """Those behind one that goes have its name now."""
        old, new = self.before.names, self.options.names
        renamed = dict(zip((old[i] for i in self.left), new, strict=True))
        return [renamed[name] for name in names if name in renamed]


def optimizers(
    states: Mapping[str, mx.array],
    old: Mapping[str, mx.array],
    new: Mapping[str, mx.array],
    change: Reshaping,
) -> Arrays:
    """Make the states of all optimisers after a change from those before it.

    Each average of a parameter changes as `change.moments` says; a parameter that is
    new has averages of 0. What belongs to no parameter, such as the step, stays.

    Args:
        states: The states, as `trainer_state.packed` names them.
        old: The parameters before the change, by path.
        new: The parameters after it.
        change: What changes.
    """
    trees = trainer_state.unpacked(states)
    changed = []
    for state in map(params.flatten, trees):
        of_kind: dict[str, Arrays] = {}
        result = {}
        for name, array in state.items():
            path, _, kind = name.rpartition(".")
            if path in old:
                of_kind.setdefault(kind, {})[path] = array
            else:
                result[name] = array
        roles = {params.role_of(p) for moments in of_kind.values() for p in moments}
        if FACTORED in of_kind:  # a new parameter may be the first vector
            of_kind.setdefault("exp_avg_sq", {})
        for kind, moments in of_kind.items():
            zeros = {
                p: _smaller(kind, mx.zeros_like(a))
                for p, a in new.items()
                if _in(roles, p, old) and _is_kept(kind, a)
            }
            every = {**zeros, **_moments(kind, moments, change)}
            result |= {f"{path}.{kind}": array for path, array in every.items()}
        changed.append(params.unflatten(result))
    return trainer_state.packed(changed)


def _smaller(kind: str, array: mx.array) -> mx.array:
    """Return an average of an array's shape as an optimiser keeps it.

    Args:
        kind: The optimiser's name of the average. Adafactor keeps two vectors of a
            matrix: one without its last axis, `exp_avg_sq_row`, and one without the
            axis before, `exp_avg_sq_col`.
        array: The average, with all axes.
    """
    axis = _missing_axis(kind)
    return array if axis is None else array.mean(axis)


def _is_kept(kind: str, parameter: mx.array) -> bool:
    """Tell whether an optimiser that keeps a kind of average keeps it of this one.

    Adafactor keeps `exp_avg_sq` of vectors and the two smaller ones of all else.
    """
    is_vector = parameter.ndim < 2
    if kind == "exp_avg_sq":
        return is_vector
    return not is_vector if _missing_axis(kind) is not None else True


def _missing_axis(kind: str) -> int | None:
    return {FACTORED: -1, "exp_avg_sq_col": -2}.get(kind)


def _moments(kind: str, moments: Arrays, change: Reshaping) -> Arrays:
    """Change the averages of one kind, of which some lack an axis of the parameter.

    A router's average without its experts' axis is that of all experts, and stays.
    """
    axis = _missing_axis(kind)
    if axis is None:
        return change.moments(moments)
    stay = {
        path: array
        for path, array in moments.items()
        if axis == -2 and params.role_of(path) == "router"
    }
    whole = {p: mx.expand_dims(a, axis) for p, a in moments.items() if p not in stay}
    changed = change.moments(whole)
    return {**stay, **{path: array.squeeze(axis) for path, array in changed.items()}}


def _in(roles: set[str], path: str, old: Mapping[str, mx.array]) -> bool:
    return path not in old and params.role_of(path) in roles


def _is_specialists(path: str, array: mx.array) -> bool:
    return array.ndim == 3 and params.role_of(path) == "specialist"


def _has_rows(path: str, array: mx.array, experts: ExpertOptions) -> bool:
    """Tell whether the first axis of an array is that of the experts that may go."""
    if params.role_of(path) == "router":
        return _row(path, router_kind(experts.router_type).rows) is not None
    return _is_specialists(path, array)


def _row(path: str, rows: Sequence[str]) -> str | None:
    """The path of the router that a parameter with rows belongs to, or None."""
    owner, _, name = path.rpartition(".")
    return owner if name in rows and owner.endswith(".router") else None


def _routers(
    values: Mapping[str, mx.array], experts: ExpertOptions
) -> Iterator[tuple[str, Arrays]]:
    """Yield the path of each router that has rows, and these by name."""
    rows = router_kind(experts.router_type).rows
    found: dict[str, Arrays] = {}
    for path, array in values.items():
        if params.role_of(path) == "router" and (owner := _row(path, rows)) is not None:
            found.setdefault(owner, {})[path.rpartition(".")[2]] = array
    yield from found.items()


def _from(indices: Sequence[int], first: int) -> list[int]:
    """Indices among all experts as indices among those from `first` on."""
    return [index - first for index in indices if index >= first]
