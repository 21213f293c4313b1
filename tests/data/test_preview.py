"""A preview says what training would find."""

import json
import subprocess
import sys

import pytest

import tests.tiny as tiny
from comigs_mlx.data.batches import training_batches
from comigs_mlx.data.preview import preview
from comigs_mlx.data.splits import load_splits
from comigs_mlx.errors import DataError


def test_documents_and_tokens_are_those_of_the_splits(text_folder, bytes_tokenizer):
    found, splits = (
        preview(str(text_folder), bytes_tokenizer),
        load_splits(str(text_folder)),
    )
    assert found.kind == "text"
    assert found.documents == {"train": 200, "valid": 40, "test": 10}
    for name in ("train", "valid", "test"):
        texts = [sample["text"] for sample in getattr(splits, name)]
        # one token a byte, and one at the end of each document
        assert found.tokens[name] == sum(len(t.encode()) + 1 for t in texts)
    assert found.examples == [sample["text"] for sample in splits.train[:5]]
    assert found.notes == splits.notes


def test_without_a_tokenizer_nothing_is_counted(text_folder):
    found = preview(str(text_folder))
    assert found.tokens is None
    assert found.documents["train"] == 200


def test_long_documents_are_shown_in_part(tmp_path, bytes_tokenizer):
    tiny.write_text(tmp_path)
    (tmp_path / "train.txt").write_text("é" * 5000 + "\n\n" + "é" * 200)
    long, short = preview(str(tmp_path), bytes_tokenizer).examples
    assert long == "é" * 199 + "…"
    assert short == "é" * 200


def test_text_shorter_than_a_window_is_refused_as_training_does(
    tmp_path, bytes_tokenizer
):
    for name in ("train", "valid"):
        (tmp_path / f"{name}.txt").write_text(f"{name} is short")
    with pytest.raises(DataError, match="expected at least 65 tokens for one window"):
        preview(str(tmp_path), bytes_tokenizer, seq_len=64)
    assert preview(str(tmp_path), bytes_tokenizer, seq_len=8).tokens["test"] == 0


@pytest.fixture
def chats(tmp_path):
    def turns(name, number):
        return [
            {"role": "user", "content": f"{name} {number}?"},
            {"role": "assistant", "content": f"{name} {'so ' * number}"},
        ]

    for name, count in (("train", 40), ("valid", 8)):
        lines = [json.dumps({"messages": turns(name, i)}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return str(tmp_path)


def test_conversations(chats, tiny_folder):
    from mlx_lm.utils import load_tokenizer

    tokenizer = load_tokenizer(tiny_folder())
    found = preview(chats, tokenizer, seq_len=48, mask_prompt=True)
    assert found.kind == "chat"
    assert found.documents == {"train": 40, "valid": 8, "test": 0}
    assert found.examples[0] == "user: train 0?\nassistant: train "
    assert 0 < found.tokens["train"] <= 40 * 49
    assert any(
        note.startswith("train: cut ") and "--seq-len" in note for note in found.notes
    )


def test_prompts_and_completions(tmp_path):
    for name in ("train", "valid"):
        line = json.dumps({"prompt": f"{name}?", "completion": "yes"})
        (tmp_path / f"{name}.jsonl").write_text(line)
    found = preview(str(tmp_path))
    assert found.examples == ["user: train?\nassistant: yes"]


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        preview(str(tmp_path / "nothing"))


def test_the_default_length_is_training_s(text_folder, bytes_tokenizer, monkeypatch):
    from comigs_mlx.data import preview as module

    asked = []

    def noting(content, *, seq_len, **rest):
        asked.append(seq_len)
        return training_batches(content, seq_len=seq_len, **rest)

    monkeypatch.setattr(module, "training_batches", noting)
    preview(str(text_folder), bytes_tokenizer)
    assert asked == [128, 128]


def test_importing_it_loads_no_mlx():
    code = "import sys, comigs_mlx.data.preview; print('mlx.core' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
