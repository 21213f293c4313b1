"""The reference: every expert runs the whole MLP, and the results are added up."""

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model import params


class Lora(nn.Module):
    """One expert's linear, written as in the paper: W x + scale * B A x."""

    def __init__(self, linear, a, b, scale):
        super().__init__()
        self.linear, self.a, self.b, self._scale = linear, a, b, scale

    def __call__(self, x):
        return self.linear(x) + self._scale * (x @ self.a) @ self.b


class NaiveMLP(nn.Module):
    """sum_e w_e * MLP(x; base + LoRA_e) + (1 - sum_e w_e) * MLP(x; base)."""

    def __init__(self, mlp, names, weights_of, flat, prefix, options):
        super().__init__()
        self.mlp, self._names, self._weights_of = mlp, names, weights_of
        self._flat, self._prefix, self._options = flat, prefix, options

    def pair(self, name, expert):
        role, i = "generalist", expert
        if expert >= self._options.generalists:
            role, i = "specialist", expert - self._options.generalists
        at = f"{self._prefix}.{name}.{role}"
        return self._flat[f"{at}.lora_a"][i], self._flat[f"{at}.lora_b"][i]

    def run(self, expert, x):
        bare = {name: self.mlp[name] for name in self._names}
        for name, linear in bare.items():
            a, b = self.pair(name, expert)
            self.mlp[name] = Lora(linear, a, b, self._options.scale)
        y = self.mlp(x)
        for name, linear in bare.items():
            self.mlp[name] = linear
        return y

    def __call__(self, x):
        weights = self._weights_of(x, self._flat[f"{self._prefix}.router.weight"])
        rest = 1 - weights.sum(-1, keepdims=True)
        return rest * self.mlp(x) + sum(
            weights[..., e : e + 1] * self.run(e, x)
            for e in range(self._options.experts)
        )


def router_weights(x, matrix, k):
    """DESIGN's formula, by a full sort: [..., E], zero where not chosen."""
    z = x @ matrix.T
    order = mx.argsort(-z, axis=-1)
    rank = mx.argsort(order, axis=-1)  # 0 = largest
    chosen = mx.stop_gradient(rank < k)
    if k == 1:
        return mx.where(chosen, mx.softmax(z, axis=-1), 0.0)
    return mx.softmax(mx.where(chosen, z, -mx.inf), axis=-1)


def naive_logits(model, sites, flat, options, tokens, weights_of=None):
    """Logits of the bare `model` with the naive mixture put in, then taken out."""
    if weights_of is None:
        weights_of = lambda x, m: router_weights(x, m, options.top_k)
    paths = dict(model.named_modules())
    undo = []

    def put(owner, name, module):
        undo.append((owner, name, owner[name]))
        owner[name] = module

    for site in sites:
        block_path, mlp_name = site.mlp_path.rsplit(".", 1)
        names = site.mlp_linears
        put(
            paths[block_path],
            mlp_name,
            NaiveMLP(site.mlp, names, weights_of, flat, site.mlp_path, options),
        )
        for name in site.attention_linears:
            at = f"{site.attention_path}.{name}.generalist"
            if f"{at}.lora_a" in flat:
                pair = flat[f"{at}.lora_a"], flat[f"{at}.lora_b"]
                put(
                    site.attention,
                    name,
                    Lora(site.attention[name], *pair, options.scale),
                )
    logits = model(tokens)
    for owner, name, module in reversed(undo):
        owner[name] = module
    return logits


def randomise(model, seed=1, std=0.1):
    """Give every LoRA matrix and router large random values; return them, flat."""
    keys = iter(mx.random.split(mx.random.key(seed), 1000))
    flat = params.flatten(params.select(model, params.ROLES))
    noisy = {
        p: std * mx.random.normal(a.shape, key=next(keys)) for p, a in flat.items()
    }
    model.update(params.unflatten(noisy))
    mx.eval(model.parameters())
    return noisy
