"""The text that a run is measured on, cut into windows as the run was trained on it."""

from __future__ import annotations

from dataclasses import dataclass

from comigs_mlx.data.batches import Batch, sampled_batches
from comigs_mlx.data.cache import TokenCache
from comigs_mlx.data.content import tokenised
from comigs_mlx.data.reading_progress import in_sentences
from comigs_mlx.data.splits import load_split
from comigs_mlx.messages import Note, Say
from comigs_mlx.model.base import Base
from comigs_mlx.options import DataOptions
from comigs_mlx.training.fitting import check_texts


@dataclass(frozen=True)
class Reader:
    """Reads text for one run.

    Attributes:
        base: The run's base model with its tokenizer.
        options: The text, the window and the batch size of the run.
        say: Receives a sentence before each step that takes time.
    """

    base: Base
    options: DataOptions
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
        say, options = self.say, self.options
        samples, kind = load_split(source, split, in_sentences(say), say)
        content, notes = tokenised(
            samples,
            kind,
            self.base.tokenizer,
            seq_len=options.seq_len,
            mask_prompt=options.mask_prompt,
            cache=TokenCache.of_user(say) if options.token_cache else None,
            say=say,
            split=split,
        )
        for note in [
            *notes,
            *check_texts(self.base, {split: content}, options.seq_len),
        ]:
            say(Note(f"{split}: {note}"))
        batches = -(-count // options.batch_size)
        size = (options.seq_len, options.batch_size)
        return sampled_batches(content, *size, batches)
