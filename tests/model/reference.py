"""The method in plain numpy, float64, from the files of a run and of its base model.

Nothing here is fast or shared with the package: an expert is a whole MLP, run for
every token, and the router adds them up.

    z = R x;   S = indices of the k largest z;   w = softmax(z_S)            (k >= 2)
    w = softmax(z) at its argmax                                             (k = 1)
    y = sum_{e in S} w_e MLP(x; base + LoRA_e)

Arrays are `[tokens, ...]`: one window of text, no batch.
"""

import json
from functools import partial

import numpy as np
from safetensors.numpy import load_file


def window_loss(base_folder, run_folder, tokens):
    """Mean cross-entropy, in nats, of every token of a window but the first."""
    run = Run(run_folder)
    base = read(base_folder / "model.safetensors")
    config = json.loads((base_folder / "config.json").read_text())
    model = {"llama": llama, "gpt2": gpt2}[config["model_type"]]
    logits = model(base, config, run, np.asarray(tokens[:-1]))
    largest = logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits - largest).sum(-1)) + largest[:, 0]
    score = np.take_along_axis(logits, np.asarray(tokens[1:])[:, None], -1)[:, 0]
    return (log_sum - score).mean()


def read(file):
    """A safetensors file in float64."""
    return {name: array.astype(np.float64) for name, array in load_file(file).items()}


class Run:
    """What a run's files say: LoRA pairs of attention and experts, and routers."""

    def __init__(self, folder):
        info = json.loads((folder / "comigs.json").read_text())
        self.scale, self.top_k = info["scale"], info["top_k"]
        count = info["generalists"]
        names = ["generalist", *(f"generalist-{i}" for i in range(1, count))]
        adapters = [read(folder / name / "adapters.safetensors") for name in names]
        stacked = read(folder / "specialist" / "experts.safetensors")
        self.attention = adapters[0]
        self.experts = adapters[:count] + [
            {name: array[s] for name, array in stacked.items()}
            for s in range(info["specialists"])
        ]
        self.routers = read(folder / "router" / "router.safetensors")

    def linear(self, base, pairs, path, x):
        """W x + b + scale * B A x, where `pairs` has A and B for this linear."""
        y = x @ base[f"{path}.weight"].T + base.get(f"{path}.bias", 0.0)
        if f"{path}.lora_a" in pairs:
            a, b = pairs[f"{path}.lora_a"], pairs[f"{path}.lora_b"]
            y = y + self.scale * (x @ a) @ b
        return y

    def weights(self, mlp_path, x):
        """`[tokens, E]`: the weight of each expert, 0 for those not chosen."""
        z = x @ self.routers[f"{mlp_path}.router.weight"].T
        w = np.zeros_like(z)
        for token, scores in enumerate(z):
            chosen = sorted(range(len(scores)), key=lambda e: -scores[e])[: self.top_k]
            among = range(len(scores)) if self.top_k == 1 else chosen
            total = sum(np.exp(scores[e]) for e in among)
            for e in chosen:
                w[token, e] = np.exp(scores[e]) / total
        return w

    def mixture(self, base, mlp_path, mlp, x):
        """The weighted sum of `mlp` with each expert's pairs, and the base's rest."""
        if f"{mlp_path}.router.weight" not in self.routers:  # a block left as it was
            return mlp(partial(self.linear, base, {}), x)
        w = self.weights(mlp_path, x)
        outputs = [mlp(partial(self.linear, base, pairs), x) for pairs in self.experts]
        rest = 1 - w.sum(-1, keepdims=True)
        return rest * mlp(partial(self.linear, base, {}), x) + sum(
            w[:, e : e + 1] * y for e, y in enumerate(outputs)
        )


def attend(q, k, v):
    """Causal attention: q `[tokens, heads, dims]`, k and v with fewer heads or as many.

    Returns:
        `[tokens, heads * dims]`.
    """
    tokens, heads, dims = q.shape
    k, v = (np.repeat(a, heads // a.shape[1], axis=1) for a in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dims)
    scores[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", shares, v).reshape(tokens, heads * dims)


def llama(base, config, run, tokens):
    """Logits `[tokens, vocabulary]` of a Llama with the run's experts."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    attention = partial(run.linear, base, run.attention)

    def norm(name, x):
        mean_square = (x * x).mean(-1, keepdims=True)
        return x / np.sqrt(mean_square + config["rms_norm_eps"]) * base[name]

    def rotate(x):
        """Dimension i turns with i + dims / 2, by position * theta^(-2 i / dims)."""
        half = x.shape[-1] // 2
        rate = config["rope_theta"] ** (-np.arange(half) / half)
        angle = np.arange(len(x))[:, None, None] * rate
        first, second = x[..., :half], x[..., half:]
        sin, cos = np.sin(angle), np.cos(angle)
        turned = first * cos - second * sin, second * cos + first * sin
        return np.concatenate(turned, axis=-1)

    x = base["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        h = norm(f"{at}.input_layernorm.weight", x)
        q, k, v = (
            attention(f"{at}.self_attn.{name}_proj", h).reshape(
                len(h), -1, width // heads
            )
            for name in "qkv"
        )
        x = x + attention(f"{at}.self_attn.o_proj", attend(rotate(q), rotate(k), v))
        h = norm(f"{at}.post_attention_layernorm.weight", x)

        def mlp(linear, h, at=at):
            gate = linear(f"{at}.mlp.gate_proj", h)
            hidden = gate / (1 + np.exp(-gate)) * linear(f"{at}.mlp.up_proj", h)
            return linear(f"{at}.mlp.down_proj", hidden)

        x = x + run.mixture(base, f"{at}.mlp", mlp, h)
    return norm("model.norm.weight", x) @ base["lm_head.weight"].T


def gpt2(base, config, run, tokens):
    """Logits `[tokens, vocabulary]` of a GPT-2 with the run's experts."""
    heads = config["n_head"]
    attention = partial(run.linear, base, run.attention)

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + config["layer_norm_epsilon"])
        return x * base[f"{name}.weight"] + base[f"{name}.bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = base["model.wte.weight"][tokens] + base["model.wpe.weight"][: len(tokens)]
    for i in range(config["n_layer"]):
        at = f"model.h.{i}"
        qkv = attention(f"{at}.attn.c_attn", norm(f"{at}.ln_1", x))
        q, k, v = (a.reshape(len(x), heads, -1) for a in np.split(qkv, 3, axis=-1))
        x = x + attention(f"{at}.attn.c_proj", attend(q, k, v))

        def mlp(linear, h, at=at):
            return linear(f"{at}.mlp.c_proj", gelu(linear(f"{at}.mlp.c_fc", h)))

        x = x + run.mixture(base, f"{at}.mlp", mlp, norm(f"{at}.ln_2", x))
    return norm("model.ln_f", x) @ base["model.wte.weight"].T
