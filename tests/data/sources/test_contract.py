"""What every source must do, for each one found in the folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comigs_mlx import registry
from comigs_mlx.data.splits import SPLITS, RawSplits, load_splits

SOURCES = registry.names("source")

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


@pytest.fixture
def sources(write: Callable[..., Path], datasets: dict[str, Any]) -> list[str]:
    """Sources of all sorts; each source must read at least one."""
    texts = [{"text": f"document {i}"} for i in range(60)]
    chats = [
        {"messages": [*MESSAGES, {"role": "user", "content": str(i)}]}
        for i in range(60)
    ]
    datasets["owner/name"] = {"train": texts, "validation": texts[:5]}
    blocks = "\n\n".join(row["text"] for row in texts)
    names = {f"deep/{i}.md": row["text"] for i, row in enumerate(texts)}
    plugins = (registry.load("source", name) for name in SOURCES)
    others = [
        str(write({name: text}, "example") / name)
        for plugin in plugins
        for name, text in getattr(plugin, "EXAMPLES", {}).items()
    ]
    return [
        *others,
        "demo",
        "demo:journal",
        "owner/name",
        str(write({"train.txt": blocks, "valid.txt": "a\n\nb"}, "text")),
        str(write({"one.txt": blocks}, "file") / "one.txt"),
        str(write(names, "tree")),
        str(write({"train.jsonl": chats, "valid.jsonl": chats[:5]}, "jsonl")),
        str(write({"one.jsonl": texts}, "rows") / "one.jsonl"),
    ]


def reader(source: str) -> Any:
    """The source that reads `source`, as `load_splits` chooses it."""
    plugins = [registry.load("source", name) for name in SOURCES]
    claims = [plugin for plugin in plugins if plugin.matches(source)]
    return min(claims, key=lambda plugin: plugin.ORDER)


@pytest.mark.parametrize("name", SOURCES)
def test_has_documented_functions_and_a_place_in_the_order(name: str) -> None:
    plugin = registry.load("source", name)
    others = [registry.load("source", n).ORDER for n in SOURCES if n != name]
    assert isinstance(plugin.ORDER, int)
    assert plugin.ORDER not in others
    assert all(map(inspect.getdoc, (plugin, plugin.matches, plugin.read)))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    "source", ["no/such/place/at/all", "nowhere", "bad\0name", "x" * 5000, "\ud800/a"]
)
def test_claims_nothing_that_is_not_there(name: str, source: str) -> None:
    assert registry.load("source", name).matches(source) is False


@pytest.mark.parametrize("name", SOURCES)
def test_reads_the_same_well_formed_samples_each_time(
    name: str, sources: list[str]
) -> None:
    plugin = registry.load("source", name)
    mine = [source for source in sources if reader(source) is plugin]
    assert mine, f"give the contract suite a source that {name} reads"
    for source in mine:
        found: RawSplits = plugin.read(source)
        assert found == plugin.read(source)
        assert set(found.splits) == {"all"} or set(found.splits) <= set(SPLITS)
        for sample in (s for part in found.splits.values() for s in part):
            kinds = ({"text"}, {"messages"}, {"prompt", "completion"})
            assert set(sample) - {"tools"} in kinds
            assert isinstance(sample.get("text", ""), str)


@pytest.mark.parametrize("name", SOURCES)
def test_no_document_stands_in_two_splits(name: str, sources: list[str]) -> None:
    plugin = registry.load("source", name)
    for source in (s for s in sources if reader(s) is plugin):
        found = load_splits(source)
        parts = [{repr(s) for s in part} for part in (found.train, found.valid)]
        assert all(parts)
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & {repr(s) for s in found.test}
