"""The options of `python -m comigs_mlx.doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from comigs_mlx.config import group, like, option
from comigs_mlx.options import DataOptions, ExpertOptions, Reading, TrainingOptions


@dataclass(frozen=True)
class DoctorConfig:
    """Say what is wrong with this machine, or what training would learn from a text.

    Without --data it checks Python and packages, processor, BLAS, compiler, device,
    memory, disk and caches, each line with what to do; with --model also the memory
    that training would need. It opens no connection, unless --hub asks for one. It ends
    with exit code 2 if something that is needed is broken.

    With --data it reads the text as train would, with the same options, and reports
    files, speakers, splits, tokens, what is cut and left out, duplicates, secrets, and
    samples with what is learnt in colour.

      python -m comigs_mlx.doctor
      python -m comigs_mlx.doctor --model mlx-community/Llama-3.2-1B-Instruct-4bit
      python -m comigs_mlx.doctor --data ~/Notes
      python -m comigs_mlx.doctor --data chat.txt --me Ann --mask-prompt
    """

    data: str | None = option(
        None,
        "text to report on, as for train: a folder, a file, a dataset or demo",
        "PATH|DATASET",
    )
    model: str | None = option(
        None,
        "base model whose tokenizer counts tokens, and whose memory is estimated, if "
        "it is on this device (with --data: demo, if it is)",
        "ID|PATH",
    )
    hub: bool = option(
        False, "ask the Hugging Face Hub whether it can be reached and knows you"
    )
    json: bool = option(False, "print one JSON object")
    batch_size: int = like(DataOptions, "batch_size")
    seq_len: int = like(DataOptions, "seq_len")
    mask_prompt: bool = like(DataOptions, "mask_prompt")
    grad_checkpoint: bool = like(TrainingOptions, "grad_checkpoint")
    reading: Reading = group(Reading)
    experts: ExpertOptions = group(ExpertOptions)

    def problems(self) -> list[str]:
        """One sentence for each value that cannot work."""
        return [
            f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1"
            for name in ("batch_size", "seq_len")
            if getattr(self, name) < 1
        ]
