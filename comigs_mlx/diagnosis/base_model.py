"""Checks the base model: is it here, does it take experts, does training fit?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from comigs_mlx.diagnosis.findings import Finding
from comigs_mlx.diagnosis.options import DoctorConfig
from comigs_mlx.messages import Note

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

DEMO = "demo"


def base_model(config: DoctorConfig) -> Iterator[Finding]:
    """Estimate the memory that training would need; no weight is read for that.

    Raises:
        ModelError: If the model is damaged, or cannot take experts.
    """
    from comigs_mlx.model.base import load_base, local_folder
    from comigs_mlx.model.mixture import Mixture
    from comigs_mlx.training import memory_estimate

    assert config.model is not None
    if (folder := local_folder(config.model)) is None:
        text = f"{config.model} is not on this device, so nothing is known of it"
        yield Finding("model", "warn", text, "train fetches it at its first use")
        return
    base = load_base(str(folder), lazy=True)
    mixture = Mixture(base.model, config.experts)
    work = memory_estimate.Work(
        batch_size=config.batch_size,
        seq_len=config.seq_len,
        checkpoint=config.grad_checkpoint,
        measured=config.seq_len,
    )
    plan = memory_estimate.plan(mixture, work)
    told, *more = plan.notes(None)
    values = {
        "folder": str(folder),
        "peak": plan.estimate.peak,
        "base": plan.model.base_bytes,
    }
    yield Finding("model", "ok", told, values=values)
    long = base.check_length(config.seq_len, "a sequence", "lower --seq-len")
    for note in [*more, *long]:
        sentence = note.sentence if isinstance(note, Note) else note
        yield Finding("model", "warn", sentence)


def tokenizer(config: DoctorConfig) -> tuple[TokenizerWrapper | None, str]:
    """Load the tokenizer that counts the tokens of a text.

    Returns:
        The tokenizer, and the model that it is of; None and why where it is not here.

    Raises:
        ModelError: If the model is damaged.
    """
    from comigs_mlx.model.base import local_folder, tokenizer_of

    model = config.model or DEMO
    if (folder := local_folder(model)) is None:
        return None, f"{model} is not on this device, so no tokens are counted"
    return tokenizer_of(folder), model
