"""README.md: the federation's page on the Hub, a model card with valid metadata."""

from __future__ import annotations

import html
import json
import re

from comigs_mlx.expert_shape import train_flags
from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.formats.strict_json import visible
from comigs_mlx.federation.formats.uri import HUB
from comigs_mlx.model.licence import Licence

README = "README.md"
TAGS = ["mlx", "lora", "moe", "comigs", "federated-learning"]
DEMO = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The id of the embedded demo model on the Hub."""

ROUNDS, NAMES = 50, 20
"""The most rounds in the table, and the most names in one of its rows."""

TEXT = """\
# A shared generalist

```bash
python -m comigs_mlx.sync pull --federation {uri} --run runs/mine
```

The participants listed below improve this LoRA adapter for `{base}` together: each
trains a copy on text that stays on its own device, and the copies become the next one.
It is the *generalist* of a CoMiGS mixture ([arXiv:2409.13931]({paper})); specialists,
routers and text are never here. What a contribution has learnt from its owner's text
is, and can give passages of it away; only noise (`--dp-clip`, `--dp-noise`) bounds it.

## Use it

With [mlx-lm](https://github.com/ml-explore/mlx-lm) alone (it is an adapter, so
`load("owner/repo")` by itself cannot work):

```bash
{download}
mlx_lm.generate --model {model} --adapter-path {folder} --prompt "Hello"
```

Take part, with your own text:

```bash
python -m comigs_mlx.train --model {own_model} --data ~/Notes --run runs/mine {shape}
python -m comigs_mlx.sync pull --federation {uri} --run runs/mine --participant NAME
python -m comigs_mlx.train --run runs/mine --resume --steps 400
python -m comigs_mlx.sync push --federation {uri} --run runs/mine --participant NAME
```

## Licence

{licence}

## Rounds

{state}

{table}
"""


def render(manifest: Manifest, round: Round, uri: str) -> bytes:
    """Write the content of README.md; equal arguments give equal bytes.

    Args:
        manifest: The manifest of the federation.
        round: The last closed round.
        uri: The URI of the exchange; only a Hub's is shown, because a folder's path is
            private.
    """
    match = HUB.fullmatch(uri)
    base = manifest.base_model.id
    repo = match["repo"] if match else None
    text = TEXT.format(
        uri=uri if match else "PATH/OF/THIS/FOLDER",
        base=_code(base),
        model=_word(hub_id(base) or "PATH/OF/THE/BASE/MODEL"),
        own_model=_word(base),
        paper="https://arxiv.org/abs/2409.13931",
        download=f"hf download {repo} --local-dir pool" if repo else "# this folder:",
        folder="pool" if repo else "PATH/OF/THIS/FOLDER",
        shape=train_flags(manifest.experts),
        licence=_licence(manifest),
        state=_state(manifest, round),
        table=_table(round),
    )
    return f"{_metadata(manifest)}\n{text}".encode()


def hub_id(base: str) -> str | None:
    """Return the Hub's id of a base model; None where it is not known to have one."""
    if base == "demo":
        return DEMO
    well_formed = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", base, re.ASCII)
    return base if well_formed and not re.search(r"--|\.\.|[.-](/|$)", base) else None


def escaped(text: str) -> str:
    """Escape a text so that neither Markdown nor HTML gives a meaning to it."""
    plain = html.escape(visible(text))
    return re.sub(r"([\\`*_{}\[\]()#+!|~:-])", r"\\\1", plain)


def _metadata(manifest: Manifest) -> str:
    """Write the YAML block; every value is JSON, which YAML reads the same."""
    base = hub_id(manifest.base_model.id)
    about = {"base_model": base, "base_model_relation": "adapter"} if base else {}
    values = {
        "library_name": "mlx",
        "pipeline_tag": "text-generation",
        **about,
        **Licence(manifest.license).metadata,
        "tags": TAGS,
    }
    lines = (f"{name}: {json.dumps(value)}" for name, value in values.items())
    return "\n".join(["---", *lines, "---"])


def _licence(manifest: Manifest) -> str:
    """Say under which licence this is, and what the base model's asks for."""
    base = Licence(manifest.base_license)
    if manifest.license is None:
        own = "Nobody has said under which licence this generalist is."
    else:
        own = f"This generalist: {escaped(Licence(manifest.license).title)}."
    lines = [f"{own} The base model: {escaped(base.title)}."]
    if base.mark is not None:
        lines.append(f"**{base.mark}**")
    return "\n\n".join([*lines, *(f"- {escaped(duty)}" for duty in base.duties)])


def _code(text: str) -> str:
    """Make a text fit between backticks."""
    return visible(text).replace("`", "'")


def _word(text: str) -> str:
    """Return a harmless word for a shell's command line in a code block."""
    plain = re.fullmatch(r"[\w./-]+", text, re.ASCII)
    return text if plain and not text.startswith("-") else "PATH/OF/THE/BASE/MODEL"


def _state(manifest: Manifest, round: Round) -> str:
    participants = "anyone may take part"
    if manifest.participants is not None:
        participants = f"{len(manifest.participants)} participants"
    parts = [
        f"Round {round.round} is closed, round {round.round + 1} is open",
        f"a round closes with {manifest.quorum} contributions",
        f"aggregator: {escaped(manifest.aggregator.name)}",
        participants,
    ]
    if round.refused:
        parts.append(f"{len(round.refused)} refused in the last round (round.json)")
    notes = [f"\nOf the last round: {escaped(note)}." for note in round.notes or ()]
    return "\n".join(["; ".join(parts) + ".", *notes])


def _table(round: Round) -> str:
    if not round.history:
        return "No round has been closed yet."
    rows = ["| round | contributors |", "|---|---|"]
    for closed in reversed(round.history[-ROUNDS:]):
        names = [escaped(name) for name in closed.contributors[:NAMES]]
        if (unnamed := len(closed.contributors) - NAMES) > 0:
            names.append(f"and {unnamed} more")
        rows.append(f"| {closed.round} | {', '.join(names)} |")
    return "\n".join(rows)
