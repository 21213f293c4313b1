"""The experts as files: names, shapes, and what stock mlx-lm makes of them."""

import json

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from comigs_mlx.errors import RunError
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from comigs_mlx.runs import experts
from comigs_mlx.runs.folder import RunFolder
from tests.training.setting import mixture_of, same, values

TOKENS = mx.array([[3, 200, 41, 59, 26, 250], [31, 4, 159, 2, 65, 35]])
MLP = ["gate_proj", "up_proj", "down_proj"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def shapes(file):
    return {name: tuple(array.shape) for name, array in mx.load(str(file)).items()}


def relative_error(found, expected):
    found, expected = np.array(found), np.array(expected)
    return np.abs(found - expected).max() / np.abs(expected).max()


class TestFormat:
    """Three specialists of rank 3 in a model 32 wide, 64 in the MLP, 16 in k and v."""

    OPTIONS = ExpertOptions(generalists=2, specialists=3, rank=3)
    SIZES = {
        "gate_proj": (32, 64),
        "up_proj": (32, 64),
        "down_proj": (64, 32),
        "q_proj": (32, 32),
        "k_proj": (32, 16),
        "v_proj": (32, 16),
        "o_proj": (32, 32),
    }

    @pytest.fixture
    def mixture(self):
        return mixture_of(self.OPTIONS, std=0.1)

    @pytest.fixture
    def folder(self, mixture, tmp_path):
        experts.write(tmp_path, mixture, "some/model", step=7)
        return tmp_path

    def pairs(self, linears, parent, *lead):
        return {
            f"model.layers.{i}.{parent}.{name}.lora_{which}": (*lead, *shape)
            for i in range(2)
            for name in linears
            for which, shape in (
                ("a", (self.SIZES[name][0], 3)),
                ("b", (3, self.SIZES[name][1])),
            )
        }

    def test_tensor_names_and_shapes(self, folder):
        first, second = (
            shapes(folder / name / "adapters.safetensors")
            for name in ("generalist", "generalist-1")
        )
        assert second == self.pairs(MLP, "mlp")
        assert first == second | self.pairs(ATTENTION, "self_attn")
        found = shapes(folder / "specialist" / "experts.safetensors")
        assert found == self.pairs(MLP, "mlp", 3)
        found = shapes(folder / "router" / "router.safetensors")
        assert found == {f"model.layers.{i}.mlp.router.weight": (5, 32) for i in (0, 1)}
        assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == [
            *["adapter_config.json"] * 2,
            *["adapters.safetensors"] * 2,
            "experts.safetensors",
            "router.safetensors",
        ]

    def test_every_generalist_has_its_own_values(self, folder, mixture):
        stacked = values(mixture, "generalist")
        for index, name in enumerate(("generalist", "generalist-1")):
            file = folder / name / "adapters.safetensors"
            for path, array in mx.load(str(file)).items():
                owner, leaf = path.rsplit(".", 1)
                expected = stacked[f"{owner}.generalist.{leaf}"]
                if ".mlp." in path:
                    expected = expected[index]
                assert np.array_equal(np.array(array), expected)

    def test_adapter_config(self, folder):
        found = [
            json.loads((folder / name / "adapter_config.json").read_text())
            for name in ("generalist", "generalist-1")
        ]
        mlp = sorted(f"mlp.{name}" for name in MLP)
        attention = sorted(f"self_attn.{name}" for name in ATTENTION)
        for config, keys in zip(found, (mlp + attention, mlp), strict=True):
            assert config == {
                "fine_tune_type": "lora",
                "model": "some/model",
                "num_layers": 2,
                "lora_parameters": {
                    "rank": 3,
                    "scale": pytest.approx(16 / 3**0.5),
                    "dropout": 0.0,
                    "keys": keys,
                },
            }

    def test_read_is_the_inverse_of_write(self, folder, mixture):
        other = mixture_of(self.OPTIONS, std=0.3, seed=5)
        assert not same(values(other), values(mixture))
        assert experts.read(folder, other) == 7
        assert same(values(other), values(mixture))

    @pytest.mark.parametrize(
        "options",
        [
            ExpertOptions(generalists=0, specialists=2, rank=2),
            ExpertOptions(generalists=2, specialists=0, rank=2),
            ExpertOptions(rank=2, attention_lora=False),
            ExpertOptions(rank=2, num_layers=1),
        ],
    )
    def test_round_trip_of_every_shape(self, tmp_path, options):
        mixture = mixture_of(options, std=0.1)
        experts.write(tmp_path, mixture, "m", step=1)
        other = mixture_of(options, std=0.3, seed=5)
        assert experts.read(tmp_path, other) == 1
        assert same(values(other), values(mixture))


class TestRefused:
    OPTIONS = ExpertOptions(rank=2)

    @pytest.fixture
    def folder(self, tmp_path):
        experts.write(tmp_path, mixture_of(self.OPTIONS, std=0.1), "m", step=4)
        return tmp_path

    def refused(self, folder, options=OPTIONS):
        mixture = mixture_of(options)
        before = values(mixture)
        with pytest.raises(RunError) as error:
            experts.read(folder, mixture)
        assert same(values(mixture), before)
        return str(error.value)

    def test_another_rank(self, folder):
        reason = self.refused(folder, ExpertOptions(rank=3))
        assert "lora_a has shape" in reason
        assert "expected" in reason

    def test_a_file_that_is_cut_off(self, folder):
        file = folder / "router" / "router.safetensors"
        file.write_bytes(file.read_bytes()[:50])
        assert self.refused(folder).startswith(f"cannot read {file}, which is damaged")

    def test_a_tensor_that_is_missing(self, folder):
        file = folder / "specialist" / "experts.safetensors"
        tensors = mx.load(str(file))
        del tensors["model.layers.1.mlp.up_proj.lora_b"]
        mx.save_safetensors(str(file), tensors, {"step": "4"})
        expected = "model.layers.1.mlp.up_proj.specialist.lora_b has shape None"
        assert expected in self.refused(folder)

    @pytest.mark.parametrize("name", ["generalist", "specialist", "router"])
    def test_files_of_different_steps_or_missing_are_not_mixed(self, folder, name):
        mixture = mixture_of(self.OPTIONS)
        before = values(mixture)
        (file,) = (folder / name).glob("*.safetensors")
        mx.save_safetensors(str(file), mx.load(str(file)), {"step": "5"})
        assert experts.read(folder, mixture) is None
        file.unlink()
        assert experts.read(folder, mixture) is None
        assert same(values(mixture), before)


@pytest.mark.parametrize("bits", [None, 4], ids=["plain", "4bit"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
class TestStockMlxLm:
    """`mlx_lm.generate --adapter-path RUN/generalist`: the same numbers as ours."""

    def test_loads_the_generalist(self, trained, tiny_folder, family, bits):
        run = trained(family, bits, steps=4, learning_rate=0.02)
        _, mixture = RunFolder(run).load()
        with mixture.selected("generalist"):
            expected, _ = mixture(TOKENS)
        with mixture.selected("base"):
            bare, _ = mixture(TOKENS)
        stock, _ = mlx_lm.load(
            str(tiny_folder(family, bits)), adapter_path=str(run / "generalist")
        )
        assert relative_error(stock(TOKENS), expected) <= 1e-5
        assert relative_error(bare, expected) > 1e-3

    def test_loads_every_generalist(self, tiny_folder, tmp_path, family, bits):
        """Attention LoRA belongs to the first one; the second is its MLP alone."""
        path = str(tiny_folder(family, bits))
        options = ExpertOptions(generalists=2, specialists=1, rank=2)
        mixture = Mixture(mlx_lm.load(path)[0], options)
        flat = values(mixture)
        rng = np.random.default_rng(0)
        noisy = {p: mx.array(0.1 * rng.normal(size=a.shape)) for p, a in flat.items()}
        put(mixture, noisy)
        experts.write(tmp_path, mixture, path, step=1)
        for index, name in enumerate(("generalist", "generalist-1")):
            weights = tuple(float(e == index) for e in range(3))
            if index == 1:
                off = {p: 0 * a for p, a in noisy.items() if a.ndim == 2}
                put(mixture, {p: a for p, a in off.items() if "router" not in p})
            with mixture.selected(weights):
                expected, _ = mixture(TOKENS)
            stock, _ = mlx_lm.load(path, adapter_path=str(tmp_path / name))
            assert relative_error(stock(TOKENS), expected) <= 1e-5


def put(mixture, flat):
    from comigs_mlx.model import params

    tree = {path: array.astype(mx.float32) for path, array in flat.items()}
    mixture.model.update(params.unflatten(tree))
