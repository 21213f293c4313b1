"""Trains a small base model of our own, on text that every Python installation carries.

    python scripts/make_tiny_base.py --out build/tiny-base
    python -m comigs_mlx.train --model build/tiny-base

See `comigs_mlx.tiny_base.build` and, for the text, `comigs_mlx.data.demo_python`.
"""

from pathlib import Path

from comigs_mlx import command
from comigs_mlx.config import check_new, parse
from comigs_mlx.tiny_base.build import BuildResult, Recipe, make


def main() -> None:
    recipe = parse(Recipe, "scripts.make_tiny_base")
    check_new(Path(recipe.out).expanduser())
    from comigs_mlx.data.demo_python import documents

    command.say("reading the built-in help and the docstrings of the library")
    updates = make(recipe, documents(), command.say)
    first = next(updates)
    with command.progress(first.steps, "step") as advance:
        advance(f"loss {first.loss:.3f}")
        for update in updates:
            if isinstance(update, BuildResult):
                break
            advance(f"loss {update.loss:.3f}")
    command.show(
        f"{recipe.out}: {update.parameters:,} parameters, {update.steps} steps in "
        f"{command.clock(update.seconds)}; on {update.heldout_tokens:,} held-out "
        f"tokens loss {update.loss:.4f}, perplexity {update.perplexity:.2f}"
    )


if __name__ == "__main__":
    command.run(main)
