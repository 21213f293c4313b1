"""A tiny random base model as a real mlx-lm folder, and text for it."""

import json
import os
import random
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

import tests.model.families as families

LONG = os.environ.get("COMIGS_LONG") == "1"
"""Whether slow property tests try all their examples; CI sets it."""


def examples(long):
    """Number of examples or tries: `long` in CI, else a fifth of it, at least 5."""
    return long if LONG else max(5, long // 5)


BEGIN, END, EOS = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPECIALS = [EOS, BEGIN, END]
VOCABULARY = 256 + len(SPECIALS)
CHATML = (
    "{% for m in messages %}" + BEGIN + "{{ m.role }}\n{{ m.content }}" + END + "\n"
    "{% endfor %}{% if add_generation_prompt %}" + BEGIN + "assistant\n{% endif %}"
)


def write_model(folder, family="llama", bits=None, seed=0):
    """Write a random model of two blocks, 32 wide, with a tokenizer of single bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    model = families.build(family, bits, seed=seed, vocab_size=VOCABULARY)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    config = {
        **{**families.CONFIGS, **families.MIXTURES_OF_EXPERTS}[family],
        "model_type": family,
        "vocab_size": VOCABULARY,
        "eos_token_id": 256,
    }
    if bits is not None:
        config["quantization"] = {"group_size": 32, "bits": bits}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "chat_template": CHATML,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_text(folder, documents=200, seed=0):
    """train/valid/test.txt of short random documents; no word stands in two splits."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, letters, share in (
        ("train", "abcdefgh", 1.0),
        ("valid", "ijklmnop", 0.2),
        ("test", "qrstuvwx", 0.05),
    ):
        words = ["".join(rng.choices(letters, k=rng.randint(2, 6))) for _ in range(40)]
        texts = [
            " ".join(rng.choices(words, k=rng.randint(3, 12)))
            for _ in range(int(documents * share))
        ]
        Path(folder / f"{name}.txt").write_text("\n\n".join(texts) + "\n")
    return folder


TRAINING = {
    "seq_len": 16,
    "batch_size": 2,
    "rank": 2,
    "steps": 6,
    "router_every": 2,
    "router_steps": 2,
    "report_every": 4,
    "save_every": 2,
    "valid_batches": 3,
}


def flags(**options):
    """`seq_len=16, json=True` -> `--seq-len 16 --json`."""
    given = []
    for name, value in options.items():
        given.append("--" + name.replace("_", "-"))
        given += [] if value is True else [str(value)]
    return given
