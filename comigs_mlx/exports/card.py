"""README.md of an export: a model card with what was measured, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comigs_mlx.exports.job import Job
from comigs_mlx.federation.formats.model_card import escaped, hub_id
from comigs_mlx.model.licence import Licence

TEXT = """\
# {name}

{summary}, made of a CoMiGS mixture ([arXiv:2409.13931](https://arxiv.org/abs/2409.13931))
of LoRA experts on `{base}`: a generalist, shared with others or not, and specialists
that learnt from private text. **It can give passages of that text away**: it is for its
owner's devices, unless only the generalist is in it.

| expert | mean weight over blocks |
|---|---:|
{weights}

The router of the mixture chooses for each token{router}. On {tokens:,} tokens of
held-out text ({split}):

| | loss, nats per token |
|---|---:|
| the mixture | {mixture:.4f} |
| this export ({dtype}) | {export:.4f} |
| gap | {gap:+.4f} |

## Use it

```bash
{commands}
```

## Licence

{licence}
"""


def render(
    job: Job,
    kind: Any,
    results: Mapping[str, Any],
    licence: Licence,
) -> str:
    """Write the content of README.md.

    Args:
        job: The export that the card describes.
        kind: The format's module.
        results: The measured numbers, as `exporting.export` returns them.
        licence: The licence of the base model.
    """
    rows = (f"| {name} | {w:.3f} |" for name, w in results["weights"].items())
    commands = "\n".join(kind.next_commands(job, Path("PATH/OF/THIS/FOLDER")))
    commands = commands.replace(str(job.base.path), "PATH/OF/THE/BASE/MODEL")
    fixed = "" if results["fixed"] else "; here these weights hold for every token"
    text = TEXT.format(
        name=job.name,
        summary=f"{kind.SUMMARY[0].upper()}{kind.SUMMARY[1:]}",
        base=_shown(job),
        weights="\n".join(rows),
        router=fixed,
        commands=commands,
        licence=licence.sentence,
        tokens=results["tokens"],
        split=escaped(results["split"]),
        dtype=results["dtype"],
        mixture=results["loss"]["mixture"],
        export=results["loss"]["export"],
        gap=results["gap"],
    )
    return f"{_metadata(job, kind, licence)}\n{text}"


def _shown(job: Job) -> str:
    """Return the base's id; a folder's path may be private, so only its name."""
    return hub_id(job.base.id) or job.base.path.name.replace("`", "'")


def _metadata(job: Job, kind: Any, licence: Licence) -> str:
    """Write the YAML block; every value is JSON, which YAML reads the same."""
    base = hub_id(job.base.id)
    values: dict[str, Any] = {"library_name": kind.LIBRARY}
    values["pipeline_tag"] = "text-generation"
    if base is not None:
        values |= {"base_model": base, "base_model_relation": kind.RELATION}
    values |= licence.metadata
    values["tags"] = ["comigs", "lora", "moe", kind.LIBRARY]
    lines = (f"{name}: {json.dumps(value)}" for name, value in values.items())
    return "\n".join(["---", *lines, "---"])
