"""Secrets do not come into texts, wherever they stand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.open import open_exchange
from comigs_mlx.federation.formats.redaction import clean

SECRET = "Aa" + "Secret" * 4


@pytest.mark.parametrize(
    "text",
    [
        f"https://ann:hf_{SECRET}@huggingface.co/ann/pool",
        f"https://ann:{SECRET}@huggingface.co/ann/pool",
        f"https://{SECRET}@huggingface.co/ann/pool",
        f"https://:{SECRET}@127.0.0.1:8000/ann/pool",
        f"hf://ann:{SECRET}@huggingface.co/ann/pool",
        f"ann:{SECRET}@huggingface.co/ann/pool",
        f"git clone https://ann:{SECRET}@hf.co/x and https://ben:{SECRET}@hf.co/y",
        f"https://huggingface.co/ann/pool?token={SECRET}",
        f"https://huggingface.co/ann/pool?a=1&access_token={SECRET}&b=2",
        f"Authorization: Bearer {SECRET}",
        f"basic {SECRET}",
        f"hf_{SECRET}",
        f"hf_é{SECRET}",
        f"hf_{SECRET}é{SECRET}",
        f"hf_a-{SECRET}",
        f"hf://ann/hf_{SECRET}",
        f"token:hf_{SECRET}!",
        f"x=api_org_{SECRET}",
        f"ghp_{SECRET}",
        f"eyJ{SECRET}.eyJ{SECRET}.x",
    ],
)
def test_a_secret_is_hidden(text):
    assert "Secret" not in clean(text)
    assert "Secret" not in clean(f"'{text}'")
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize(
    "text",
    [
        "hf://ann/pool@dev",
        "hf://ann/pool is not there: see https://huggingface.co/ann/pool",
        "/home/ann/pool",
        "hf auth login (or set HF_TOKEN)",
        "the hf-hub library",
        "ann/hf-pool is a repository",
        "write to ann@example.org",
        "12:30 on Friday",
    ],
)
def test_plain_text_stays(text):
    assert clean(text) == text


@given(st.text(max_size=200))
def test_any_text_can_be_cleaned(text):
    assert isinstance(clean(text), str)


@pytest.mark.parametrize(
    "uri",
    [
        f"https://ann:hf_{SECRET}@huggingface.co/ann/pool",
        f"hf://ann:{SECRET}@huggingface.co/ann/pool",
        f"https://ann:hf_é{SECRET}@huggingface.co/ann/pool",
        f"git:https://ann:hf_{SECRET}@huggingface.co",
        f"mailto:hf_{SECRET}",
    ],
)
def test_an_address_that_is_refused_shows_no_secret(uri):
    with pytest.raises(FederationError, match="is no federation: write hf://") as error:
        open_exchange(uri)
    assert "Secret" not in str(error.value)


@pytest.mark.parametrize("command", ["train", "sync", "init"])
def test_no_command_prints_it(cli, command, tmp_path, tiny_folder, text_folder):
    import comigs_mlx.train as train
    from comigs_mlx import sync

    uri, run = f"https://ann:hf_{SECRET}@huggingface.co/ann/pool", tmp_path / "run"
    argv = {
        "train": ["--model", str(tiny_folder()), "--data", str(text_folder)],
        "sync": ["status"],
        "init": ["init", "--model", str(tiny_folder())],
    }[command]
    if command == "train":
        argv += ["--run", str(run), "--participant", "ann"]
    main = train.main if command == "train" else sync.main
    code, out, err = cli(main, *argv, "--federation", uri)
    assert code == 2
    assert "is no federation: write hf://" in err
    assert "Secret" not in out + err
    assert not run.exists()
