"""A preview says what training would find."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

import tests.tiny as tiny
from comigs_mlx.data import preview_text
from comigs_mlx.data.batches import training_batches
from comigs_mlx.data.conversation import Conversation
from comigs_mlx.data.preview import Part, Preview, Truncation, preview
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.data.reading_report import Counted, ReadingReport
from comigs_mlx.data.splits import SPLITS, load_splits
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


def by_hand(sample, tokenizer, size):
    """Tokens and mask of a conversation, as training makes them."""
    conversation = Conversation(sample, tokenizer)
    labelled = conversation.assistant_mask().labelled.copy()
    labelled[:1] = False
    return conversation.tokens[:size], labelled[:size]


def test_masks_and_truncation_are_training_s(chats, tiny_folder):
    from mlx_lm.utils import load_tokenizer

    tokenizer = load_tokenizer(tiny_folder())
    seq_len = 80
    found = preview(chats, tokenizer, seq_len=seq_len, mask_prompt=True)
    splits = load_splits(chats)
    whole = [by_hand(s, tokenizer, None) for s in [*splits.train, *splits.valid]]
    long = [(t, m) for t, m in whole if len(t) > seq_len + 1]
    assert found.truncated == Truncation(
        samples=len(long),
        of=48,
        tokens=sum(len(t) - seq_len - 1 for t, _ in long),
        targets=sum(int(m[seq_len + 1 :].sum()) for _, m in long),
    )
    assert 0 < found.truncated.samples < 48
    cut = [by_hand(s, tokenizer, seq_len + 1) for s in splits.train]
    usable = [(t, m) for t, m in cut if m.any()]
    assert found.tokens["train"] == sum(len(t) for t, _ in usable)
    assert found.targets["train"] == sum(int(m.sum()) for _, m in usable)
    for parts, (tokens, mask) in zip(found.samples, some(usable), strict=True):
        learnt = [t for t, target in zip(tokens, mask, strict=True) if target]
        context = [t for t, target in zip(tokens, mask, strict=True) if not target]
        shown = {
            which: "".join(p.text for p in parts if p.target is which)
            for which in (True, False)
        }
        assert shown == {
            True: tokenizer.decode(learnt),
            False: tokenizer.decode(context),
        }
        assert shown[True].startswith("train ")


def some(samples):
    """The first, middle and last of an even number of samples."""
    return [samples[0], samples[round((len(samples) - 1) / 2)], samples[-1]]


def test_all_of_a_text_but_its_first_token_is_learnt(text_folder, tiny_folder):
    from mlx_lm.utils import load_tokenizer

    found = preview(str(text_folder), load_tokenizer(tiny_folder()))
    assert found.targets["train"] == found.tokens["train"] - 1
    first, second, _ = found.samples
    text = load_splits(str(text_folder)).train[0]["text"][:149]
    assert first[0] == Part(text[0], False)
    assert first[1].text.startswith(text[1:])
    assert [part.target for part in second] == [True]
    assert second[0].text.startswith(load_splits(str(text_folder)).train[100]["text"])
    assert found.truncated is None


def test_texts_beside_conversations_are_not_truncated(write, tiny_folder):
    from mlx_lm.utils import load_tokenizer

    turns = [
        {"role": "user", "content": "so " * 30},
        {"role": "assistant", "content": "yes " * 30},
    ]
    chats = [
        {"messages": [{"role": "user", "content": f"{i}"}, *turns]} for i in range(9)
    ]
    files = {"chat.jsonl": chats, **{f"{i}.txt": f"{i} words " * 30 for i in range(9)}}
    found = preview(str(write(files)), load_tokenizer(tiny_folder()), seq_len=64)
    assert found.kind == "mixed"
    assert (found.truncated.samples, found.truncated.of) == (9, 9)


def test_chats_of_people_are_cut_into_windows_and_lose_nothing(write, tiny_folder):
    """Their words stand in windows one after the other: none is reported as lost."""
    from mlx_lm.utils import load_tokenizer

    chat = "".join(
        f"[{day:02}.03.26, 08:{minute}:00] {who}: {who} says many words on day {day}\n"
        for day in range(1, 21)
        for minute, who in ((10, "Ole"), (11, "Ann"), (12, "Ole"), (13, "Ann"))
    )
    source = str(write({"chat.txt": chat}))
    made = load_tokenizer(tiny_folder())
    found = preview(source, made, seq_len=32, reading=Reading(me=("Ann",)))
    whole = preview(source, made, seq_len=4096, reading=Reading(me=("Ann",)))
    assert found.targets == whole.targets
    assert found.truncated is None


@pytest.fixture
def leaky(write):
    """Twelve documents: one secret in three of them, one repeated, one nearly."""
    texts = [
        f"Dear Ann, note {i} is about the {i * 7919}th of our walks, and it was long."
        for i in range(9)
    ]
    texts += [texts[0], texts[1] + " Bye.", "my password: hunter2!x\nshort"]
    texts[2] += " Pay to DE89 3704 0044 0532 0130 00."
    texts[3] += " Use 4111 1111 1111 1111."
    return str(
        write({"train.txt": "\n\n".join(texts), "valid.txt": "Some other text."})
    )


def test_the_report_counts(leaky, bytes_tokenizer):
    found, splits = preview(leaky, bytes_tokenizer, seq_len=8), load_splits(leaky)
    texts = [s["text"] for s in [*splits.train, *splits.valid]]
    assert found.characters == sum(map(len, texts))
    assert found.duplicates.exact == 1
    assert (found.duplicates.near, found.duplicates.across) == (1, 0)
    assert found.duplicates.compared == 12
    assert found.secrets == {"IBAN": 1, "card number": 1, "password": 1}
    assert found.trained_secrets == found.secrets
    assert len(found.secret_places) == 3
    assert found.longest[0].characters == max(len(t) for t in texts)
    assert found.languages == {"English": sum(len(t) for t in texts[:11]),
        "Latin script": len(texts[11]) + len(texts[12])}  # fmt: skip
    total = sum(found.tokens.values())
    assert found.tokens_of(found.characters) == total
    assert json.loads(json.dumps(preview_text.to_json(found)))["characters"]


def test_no_secret_is_shown(leaky, bytes_tokenizer):
    shown = "\n".join(preview_text.full(preview(leaky, bytes_tokenizer, 8), False))
    assert "secrets: 1 IBAN, 1 card number, 1 password: --redact replaces them" in shown
    for secret in ("hunter2", "4111", "3704"):
        assert secret not in shown


def test_redacted_text_holds_none(leaky):
    found = preview(leaky, reading=Reading(redact=True))
    assert found.secrets == {}
    assert found.redacted == {"IBAN": 1, "card number": 1, "password": 1}
    assert "replaced 1 IBAN, 1 card number, 1 password (--redact)" in found.notes
    (text,) = (s["text"] for s in load_splits(leaky, reading=Reading(redact=True)).train
               if "password" in s["text"])  # fmt: skip
    assert text == "my password: [REDACTED PASSWORD]\nshort"


def made(samples, **fields):
    return Preview(
        "chat", dict.fromkeys(SPLITS, 1), None, [], [], samples=samples, **fields
    )


def test_the_mask_is_coloured_or_marked():
    found = made([[Part("hi \x1b[2Jyou", False), Part("yes\nno", True)]])
    plain, coloured = (preview_text.full(found, colour) for colour in (False, True))
    assert plain[-1] == "hi \ufffd[2Jyou⟦yes\nno⟧"
    assert coloured[-1] == (
        "\x1b[2mhi \ufffd[2Jyou\x1b[0m\x1b[1;32myes\x1b[0m\n\x1b[1;32mno\x1b[0m"
    )


def test_speakers_and_files_are_listed():
    report = ReadingReport(files={"mail": 2, "markdown": 1}, me=["Ann"])
    report.speakers = {"Ann": Counted(3, 40), "Ben\x1b": Counted(5, 60)}
    report.cut = {"quotes": Counted(2, 10)}
    report.skipped = {"empty files": Counted(1, 0, ["a.txt"])}
    report.remarks = {"files in Latin-1": Counted(2, 0, ["c.txt"])}
    report.problems = ["b.eml:3: broken"]
    found = replace(
        made([], reading=report, characters=200),
        tokens={"train": 60, "valid": 30, "test": 10},
        targets={"train": 30, "valid": 3, "test": 0},
        notes=[*report.notes(), "other"],  # those of reading are said in full above
    )
    shown = preview_text.full(found, False)
    for line in (
        "  speaker Ben\ufffd: 5 messages, 60 characters (about 30 tokens)",
        "  speaker Ann (you): 3 messages, 40 characters (about 20 tokens)",
        "cut off: quotes 2 (10 characters)",
        "skipped: 1 empty file (a.txt)",
        "noticed: 2 files in Latin-1 (c.txt)",
        "note: other",
        "not read: b.eml:3: broken",
        "  train  1 document, 60 tokens, 30 (50%) learnt",
        "secrets: none found",
    ):
        assert line in shown
    assert sum("empty file" in line for line in shown) == 1
    assert preview_text.short(found) == [
        "files: mail 2, markdown 1; cut quotes 2 (10 characters); 1 not read",
        "speakers: Ben\ufffd: 5 messages, 60 characters (about 30 tokens); "
        "Ann (you): 3 messages, 40 characters (about 20 tokens)",
        "train: 60 tokens, 30 (50%) learnt",
    ]
