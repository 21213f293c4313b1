"""The text that a run is measured on, cut into windows as the run was trained on it."""

from __future__ import annotations

from dataclasses import dataclass

from comigs_mlx.data.batches import Batch, sampled_batches
from comigs_mlx.data.reading_progress import in_sentences
from comigs_mlx.data.splits import load_split
from comigs_mlx.messages import Say
from comigs_mlx.model.base import Base
from comigs_mlx.options import TrainConfig
from comigs_mlx.runs.session import contents


@dataclass(frozen=True)
class Reader:
    """Reads text for one run.

    Attributes:
        base: The run's base model with its tokenizer.
        config: The configuration of the run.
        say: Receives a sentence before each step that takes time.
    """

    base: Base
    config: TrainConfig
    say: Say

    def windows(self, source: str, split: str, count: int) -> list[Batch]:
        """Draw a sample of the windows of a text, always the same one.

        Args:
            source: The text, as `--data` takes it.
            split: `train`, `valid`, `test` or `all`.
            count: The number of windows, at most; those of a few batches more where
                conversations have several padded lengths.

        Raises:
            DataError: If there is no such text.
            ModelError: If the base model does not know a token.
        """
        say, data = self.say, self.config.data
        told = (in_sentences(say), say, data.reading)
        samples, kind = load_split(source, split, *told)
        found = contents(self.config, self.base, {split: samples}, kind, say)
        batches = -(-count // data.batch_size)
        return sampled_batches(found[split], data.seq_len, data.batch_size, batches)
