"""`python -m comigs_mlx.evaluate`, against a plain loop over windows."""

import json
import math
import shutil

import mlx.core as mx
import numpy as np
import pytest

import tests.tiny as tiny
from comigs_mlx.evaluate import main
from comigs_mlx.inference.lean import FILE
from comigs_mlx.runs.folder import RunFolder
from tests.runs.compare import tree

EOS = 256
OPTIONS = {"specialists": 2, "steps": 4, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def run(trained):
    return trained(**OPTIONS)


@pytest.fixture(scope="module")
def loaded(run):
    return RunFolder(run).load()


def documents_of(text):
    """Blocks between blank lines."""
    return [block.strip("\n") for block in text.split("\n\n") if block.strip()]


def by_hand(loaded, text, selection, seq_len):
    """Losses of all predicted tokens in float64, and the mean expert weights."""
    base, mixture = loaded
    stream = []
    for document in documents_of(text):
        stream += base.tokenizer.encode(document, add_special_tokens=False) + [EOS]
    losses, weights = [], []
    with mixture.selected(selection):
        for start in range(0, len(stream) - 1, seq_len):
            window = stream[start : start + seq_len + 1]
            logits, routing = mixture(mx.array([window[:-1]]))
            z = np.array(logits[0]).astype(np.float64)
            picked = z[np.arange(len(z)), window[1:]]
            losses += (np.log(np.exp(z).sum(-1)) - picked).tolist()
            weights.append(np.array(routing.weights)[:, 0])
    assert len(losses) == len(stream) - 1
    return losses, np.concatenate(weights, axis=1).astype(np.float64)


class TestTokenCache:
    @pytest.fixture(autouse=True)
    def root(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return tmp_path / "cache" / "comigs_mlx" / "tokens"

    def test_the_second_time_does_not_tokenise(self, cli, run, monkeypatch):
        first = results(cli, run, experts="base")
        monkeypatch.setattr("comigs_mlx.data.content.token_stream", None)
        assert results(cli, run, experts="base") == first

    def test_it_can_be_switched_off(self, cli, run, root):
        results(cli, run, "--no-token-cache", experts="base")
        assert not root.exists()


def results(cli, run, *flags, **options):
    code, out, err = cli(main, "--json", *flags, run=run, **options)
    assert code == 0, err
    return json.loads(out)


class TestJson:
    @pytest.mark.parametrize("options", [{}, {"seq_len": 7, "batch_size": 5}])
    def test_is_what_a_plain_loop_over_windows_gives(
        self, cli, run, loaded, text_folder, options
    ):
        found = results(cli, run, **options)
        text = (text_folder / "test.txt").read_text()
        seq_len = options.get("seq_len", tiny.TRAINING["seq_len"])
        assert found.keys() == {
            "split",
            "tokens",
            "documents",
            "results",
            "expert_share",
        }
        assert found["split"] == "test"
        assert found["documents"] == len(documents_of(text)) == 10
        names = {
            "base": "base",
            "generalist": "generalist",
            "specialist": "specialist",
            "mixture": "auto",
        }
        assert found["results"].keys() == names.keys()
        for name, selection in names.items():
            losses, weights = by_hand(loaded, text, selection, seq_len)
            one = found["results"][name]
            assert one.keys() == {"loss", "perplexity", "ci95"}
            assert found["tokens"] == len(losses)
            assert one["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
            assert one["perplexity"] == pytest.approx(math.exp(np.mean(losses)))
            low, high = one["ci95"]
            assert low < one["perplexity"] < high
        assert list(found["expert_share"]) == [
            "generalist",
            "specialist",
            "specialist-1",
        ]
        expected = weights.mean((0, 1)).tolist()  # of the mixture, the last one
        assert list(found["expert_share"].values()) == pytest.approx(expected, rel=1e-5)
        assert len({one["loss"] for one in found["results"].values()}) == 4

    def test_does_not_depend_on_the_batch_size(self, cli, run):
        found = [results(cli, run, experts="auto", batch_size=n) for n in (1, 3, 64)]
        for other in found[1:]:
            assert other["tokens"] == found[0]["tokens"]
            for name, one in other["results"].items():
                expected = found[0]["results"][name]
                assert one["loss"] == pytest.approx(expected["loss"], rel=1e-6)
                assert one["ci95"] == pytest.approx(expected["ci95"], rel=1e-5)

    def test_is_the_same_every_time(self, cli, run):
        assert results(cli, run, experts="auto") == results(cli, run, experts="auto")

    @pytest.mark.parametrize("split", ["valid", "all"])
    def test_of_another_split(self, cli, run, loaded, text_folder, split):
        found = results(cli, run, split=split, experts="base", seq_len=128)
        names = ["train", "valid", "test"] if split == "all" else [split]
        text = "\n\n".join((text_folder / f"{n}.txt").read_text() for n in names)
        losses, _ = by_hand(loaded, text, "base", 128)
        assert found["results"]["base"]["loss"] == pytest.approx(np.mean(losses))
        assert found["tokens"] == len(losses)
        assert found["split"] == split

    @pytest.mark.parametrize(
        ("experts", "selection", "name"),
        [
            ("auto", "auto", "mixture"),
            ("specialist", "specialist", "specialist"),
            ("0.3,0.5,0.2", (0.3, 0.5, 0.2), "fixed 0.3,0.5,0.2"),
            ("1,0,0", (1.0, 0.0, 0.0), "fixed 1,0,0"),
        ],
    )
    def test_of_one_selection(
        self, cli, run, loaded, text_folder, experts, selection, name
    ):
        found = results(cli, run, experts=experts)
        text = (text_folder / "test.txt").read_text()
        losses, weights = by_hand(loaded, text, selection, tiny.TRAINING["seq_len"])
        assert found["results"].keys() == {name}
        assert found["results"][name]["loss"] == pytest.approx(np.mean(losses))
        shares = list(found["expert_share"].values())
        assert shares == pytest.approx(weights.mean((0, 1)).tolist(), rel=1e-5)

    def test_of_other_text(self, cli, run, loaded, tmp_path):
        text = "some words\n\n\nand more words\n\nno end of line"
        (tmp_path / "other.txt").write_text(text)
        found = results(cli, run, data=tmp_path / "other.txt", split="all")
        losses, _ = by_hand(loaded, text, "auto", tiny.TRAINING["seq_len"])
        assert found["documents"] == 3
        assert found["results"]["mixture"]["loss"] == pytest.approx(np.mean(losses))

    def test_one_document_has_no_interval(self, cli, run, tmp_path):
        (tmp_path / "other.txt").write_text("a single document of some words")
        options = {"data": tmp_path / "other.txt", "split": "all"}
        found = results(cli, run, **options)["results"]
        assert [one["ci95"] for one in found.values()] == [None] * 4
        _, out, _ = cli(main, run=run, **options)
        assert out.count("one document: none") == 4

    def test_of_the_best_save(self, cli, run):
        base, mixture = RunFolder(run).load(best=True)
        step, valid_loss = RunFolder(run).best()
        found = results(cli, run, "--best", split="valid", experts="auto")
        # The 40 documents fill more than the batches whose loss chose the best save.
        assert step in (2, 4)
        assert found["results"]["mixture"]["loss"] != valid_loss
        assert found["results"]["mixture"]["loss"] == pytest.approx(valid_loss, rel=0.1)

    def test_is_alone_on_stdout(self, cli, run):
        code, out, err = cli(main, "--json", run=run)
        assert code == 0
        assert out.count("\n") == 1
        assert "batch 1/" in err


def test_table_has_the_numbers_of_the_json(cli, run):
    expected = results(cli, run)
    _, out, _ = cli(main, run=run)
    lines = out.splitlines()
    assert lines[0] == f"test: 10 documents, {expected['tokens']} tokens predicted"
    for line, (name, one) in zip(lines[2:6], expected["results"].items(), strict=True):
        loss, perplexity, low, _, high = line.split()[1:]
        assert line.split()[0] == name
        assert float(loss) == pytest.approx(one["loss"], abs=6e-5)
        assert float(perplexity) == pytest.approx(one["perplexity"], abs=6e-3)
        assert [float(low), float(high)] == pytest.approx(one["ci95"], abs=6e-3)
    assert lines[6].startswith("expert share: generalist ")


def test_without_specialists_they_are_left_out(cli, trained):
    run = trained(specialists=0, steps=2)
    found = results(cli, run)
    assert found["results"].keys() == {"base", "generalist", "mixture"}
    assert found["expert_share"] == {"generalist": pytest.approx(1.0)}


class TestLean:
    @pytest.fixture
    def mine(self, run, tmp_path):
        return shutil.copytree(run, tmp_path / "mine")

    def test_leans_the_mixture_alone(self, cli, run):
        plain = results(cli, run)["results"]
        for lean, side in ((50, "specialist"), (-50, "generalist")):
            found = results(cli, run, lean=lean)
            assert found["lean"] == lean
            for name in ("base", "generalist", "specialist"):
                assert found["results"][name] == plain[name]
            losses = found["results"]
            expected = pytest.approx(losses[side]["loss"], rel=1e-5)
            assert losses["mixture"]["loss"] == expected
            assert losses["mixture"]["loss"] != plain["mixture"]["loss"]

    def test_of_0_is_none(self, cli, run):
        assert results(cli, run, lean=0) == results(cli, run)

    def test_is_calibrated_on_validation_text_and_kept(self, cli, mine):
        """The kept lean is what measures from then on, here and in `generate`."""
        before = results(cli, mine)
        code, out, err = cli(main, "--calibrate-lean", "--json", run=mine)
        assert code == 0, err
        kept = json.loads((mine / FILE).read_text())
        assert kept["lean"]
        assert f"kept lean {kept['lean']:+g} in {mine / FILE}" in err
        assert f"lean +0.00: valid loss {kept['loss_without']:.4f}" in err
        valid = results(cli, mine, split="valid")
        assert valid["lean"] == kept["lean"]
        assert valid["tokens"] == kept["tokens"]
        assert valid["results"]["mixture"]["loss"] == pytest.approx(kept["loss"])
        valid = results(cli, mine, split="valid", lean=0)
        assert valid["results"]["mixture"]["loss"] == pytest.approx(
            kept["loss_without"]
        )
        assert kept["loss"] < kept["loss_without"]
        assert json.loads(out) == results(cli, mine) != before
        assert results(cli, mine, lean=0) == before
        (mine / FILE).unlink()
        assert results(cli, mine) == before

    def test_the_table_says_so(self, cli, run):
        _, out, _ = cli(main, run=run, lean=-0.5)
        assert "the mixture leans by -0.5\n" in out

    def test_where_there_is_one_side_only(self, cli, trained):
        run = trained(specialists=0, steps=2)
        for flags in (["--lean", "1"], ["--calibrate-lean"]):
            code, _, err = cli(main, *flags, run=run)
            assert code == 2
            assert "a lean weighs specialists against generalists" in err


def test_steering_moves_the_mixture_alone(cli, run, tmp_path):
    (tmp_path / "it.txt").write_text("zzzz qqqq " * 30)
    plain, found = results(cli, run), results(cli, run, steer=tmp_path / "it.txt")
    assert found["results"].pop("mixture") != plain["results"].pop("mixture")
    assert found["results"] == plain["results"]


def test_a_prior_is_calibrated_and_kept(cli, run, tmp_path):
    """What is measured does not change: a prior is a prompt's."""
    mine = shutil.copytree(run, tmp_path / "mine")
    before = results(cli, mine)
    code, out, err = cli(main, "--calibrate-prior", "--json", run=mine)
    assert code == 0, err
    assert json.loads(out) == before == results(cli, mine)
    kept = json.loads((mine / "prior.json").read_text())
    assert len(kept["mine"]) == len(kept["generic"]) == 32
    assert kept["scale"] >= 0
    assert kept["loss"] <= kept["loss_without"]
    assert f"prior 0: valid loss {kept['loss_without']:.4f}" in err
    assert f"kept prior {kept['scale']:.4g} in {mine / 'prior.json'}" in err


class TestConversations:
    """Whole, in windows where they are longer; nothing is left out without a word."""

    LONG, SHORT = "tale " * 30, "ok"

    def rows(self, tmp_path, *answers):
        turns = (
            [
                {"role": "user", "content": f"q{i}"},
                {"role": "assistant", "content": answer},
            ]
            for i, answer in enumerate(answers)
        )
        lines = [json.dumps({"messages": messages}) for messages in turns]
        (tmp_path / "chat.jsonl").write_text("\n".join(lines) + "\n")
        return {"data": tmp_path / "chat.jsonl", "split": "all", "experts": "base"}

    def tokens_of(self, base, question, answer):
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        rendered = base.tokenizer.apply_chat_template(messages, tokenize=False)
        return base.tokenizer.encode(rendered, add_special_tokens=False)

    def test_every_token_but_the_first_of_each_is_predicted_once(
        self, cli, run, loaded, tmp_path
    ):
        options = self.rows(tmp_path, self.LONG, self.SHORT, self.LONG)
        base, mixture = loaded
        losses = []
        for i, answer in enumerate([self.LONG, self.SHORT, self.LONG]):
            tokens = self.tokens_of(base, f"q{i}", answer)
            with mixture.selected("base"):
                for start in range(0, len(tokens) - 1, 64):
                    window = tokens[start : start + 65]
                    logits = np.array(
                        mixture(mx.array([window[:-1]]))[0][0], np.float64
                    )
                    picked = logits[np.arange(len(logits)), window[1:]]
                    losses += (np.log(np.exp(logits).sum(-1)) - picked).tolist()
        code, out, err = cli(main, "--json", run=run, seq_len=64, **options)
        found = json.loads(out)
        assert code == 0, err
        assert found["tokens"] == len(losses)
        assert found["documents"] == 3
        assert found["results"]["base"]["loss"] == pytest.approx(np.mean(losses))
        assert found["conversations"] == {"in_windows": 2, "left_out": 0}
        assert "note: all: 2 conversations are longer than --seq-len 64" in err

    def test_a_window_that_holds_them_needs_no_word(self, cli, run, tmp_path):
        options = self.rows(tmp_path, self.LONG, self.SHORT)
        code, out, err = cli(main, "--json", run=run, seq_len=512, **options)
        assert json.loads(out)["conversations"] == {"in_windows": 0, "left_out": 0}
        assert "conversations are longer" not in err

    def test_answers_far_behind_their_prompts_are_measured(
        self, cli, trained, tmp_path
    ):
        """Masked, the targets of each are those beyond the first window."""
        from comigs_mlx.runs.place import Place

        copy = shutil.copytree(trained(**OPTIONS), tmp_path / "run")
        file = Place(copy).config
        file.write_text(
            file.read_text().replace("mask_prompt: false", "mask_prompt: true")
        )
        assert "mask_prompt: true" in file.read_text()
        messages = [
            {"role": "user", "content": "word " * 40},
            {"role": "assistant", "content": "fine"},
        ]
        (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
        options = {"data": tmp_path / "chat.jsonl", "split": "all", "experts": "base"}
        found = results(cli, copy, seq_len=16, **options)
        assert found["tokens"] >= len("fine")
        assert found["documents"] == 1
        assert found["conversations"] == {"in_windows": 1, "left_out": 0}


class TestRefused:
    def test_values_that_are_not_numbers(self, cli, run, tmp_path):
        copy = shutil.copytree(run, tmp_path / "run")
        file = copy / "specialist" / "experts.safetensors"
        arrays, metadata = mx.load(str(file), return_metadata=True)
        broken = {name: array * mx.nan for name, array in arrays.items()}
        mx.save_safetensors(str(file), broken, metadata)
        code, out, err = cli(main, "--json", run=copy)
        assert (code, out) == (2, "")
        assert err.splitlines()[-1].startswith("error: the loss of specialist is nan")

    def test_windows_past_the_table_of_positions(self, cli, trained):
        run = trained(family="gpt2", steps=2)
        code, out, err = cli(main, run=run, seq_len=129)
        assert (code, out) == (2, "")
        assert "129 tokens is longer" in err
        assert "--seq-len to at most 128" in err
        assert cli(main, run=run, seq_len=128, experts="base")[0] == 0

    def test_windows_past_a_trained_context_are_noted(self, cli, run):
        code, _, err = cli(main, run=run, seq_len=129, experts="base")
        assert code == 0
        assert "note: test: --seq-len: a window of 129 tokens is longer than" in err

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ({"experts": "nobody"}, "unknown experts 'nobody'"),
            ({"experts": "0.5,0.5"}, "expected 3 weights"),
            ({"experts": "0,0,0"}, "use base instead"),
            ({"experts": "1,x,0"}, "expected auto, base, generalist"),
            ({"steer": "/no/such/text"}, "/no/such/text: cannot be read"),
            ({"steer_by": 51}, "--steer-by 51.0 must be from -50 to 50"),
            (
                {"steer": "/dev/null", "experts": "base"},
                "--steer moves the router's choice: it needs experts auto",
            ),
            ({"steer": "/dev/null"}, "/dev/null has 0 tokens, too few to tell"),
            ({"lean": 60}, "--lean 60.0 must be from -50 to 50"),
            ({"lean": 1, "experts": "base"}, "--lean moves the router's choice"),
            ({"lean": 1, "calibrate_lean": True}, "exclude each other: drop one"),
            (
                {"calibrate_lean": True, "experts": "base"},
                "--calibrate-lean needs the mixture: drop --experts",
            ),
            (
                {"calibrate_prior": True, "experts": "base"},
                "--calibrate-prior needs the mixture: drop --experts",
            ),
            ({"split": "rest"}, "invalid choice: 'rest'"),
            ({"seq_len": 0}, "--seq-len 0 must be at least 1"),
            ({"data": "/no/such/text"}, "no such file or folder"),
            ({"run": "/no/such/run"}, "no run at /no/such/run"),
        ],
    )
    def test_in_one_line_and_nothing_changes(self, cli, run, flags, expected):
        before = tree(run)
        code, out, err = cli(main, **{"run": run, **flags})
        *_, last = err.splitlines()
        assert (code, out) == (2, "")
        assert last.startswith("error: ")
        assert expected in last
        assert tree(run) == before

    def test_without_a_run(self, cli):
        expected = "error: --run DIR is missing: the folder of a run\n"
        assert cli(main) == (2, "", expected)

    def test_an_empty_split(self, cli, run, tmp_path):
        (tmp_path / "train.txt").write_text("a\n\nb\n")
        (tmp_path / "valid.txt").write_text("c\n")
        code, _, err = cli(main, run=run, data=tmp_path)
        assert code == 2
        assert "test is empty (documents: train 2, valid 1, test 0)" in err

    def test_no_best_save(self, cli, run, tmp_path):
        copy = shutil.copytree(run, tmp_path / "run")
        shutil.rmtree(copy / "best")
        code, _, err = cli(main, "--best", run=copy)
        assert code == 2
        assert err.endswith("has no best save yet\n")
