"""Secrets are found by form and arithmetic, and replaced once and for all."""

import time

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from comigs_mlx.data import secrets
from comigs_mlx.data.splits import Placed

# Put together here, so that no scanner takes this file for a leak.
KEY = "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4zAb7d"
BODY = "\n".join([("MIIEpAIBAAKCAQEA7bq0" * 4)[:64]] * 3 + ["Qk9x=="])
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----"
LONG = KEY * 20

TRUE = {
    f"id AKIA{'QWERTZUIOPASDFG7'} end": "AWS key",
    f"ghp_{KEY}": "GitHub token",
    f"see github_pat_{KEY}_{KEY}": "GitHub token",
    f"glpat-{KEY[:20]},": "GitLab token",
    f"xoxb-1234567890-{KEY[:12]}": "Slack token",
    f"https://hooks.slack.com/services/T0123ABCD/B0123ABCD/{KEY[:24]}": "Slack token",
    f"sk_live_{KEY[:24]}": "Stripe key",
    f"AIza{KEY[:35]}": "Google API key",
    f"token hf_{KEY[:34]}.": "Hugging Face token",
    f"sk-ant-api03-{KEY}": "Anthropic key",
    f"OPENAI=sk-proj-{KEY}": "OpenAI key",
    f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.{KEY}": "JSON web token",
    f"Authorization: Bearer {KEY}": "bearer token",
    "postgres://ann:h0rse@db.local/x": "URL password",
    f"x\n{PEM}\ny": "private key",
    PEM.replace("\n", "\\n"): "private key",
    "pay 4111 1111 1111 1111 5 times": "card number",
    "5500-0000-0000-0004": "card number",
    "378282246310005": "card number",
    "to DE89 3704 0044 0532 0130 00 NOW": "IBAN",
    "GB82WEST12345698765432": "IBAN",
    'password = "hunter2!x"': "password",
    "Passwort: Sommer2024!": "password",
    "CONTRASEÑA: verano2024x": "password",
    '{"api_key": "9f86d081884c7d65"}': "API key",
    "aws_secret_access_key=wJalrXUtnFEMIK7MDENGbPxRfiCY": "API key",
    f"secret: {LONG}": "API key",
}

FALSE = (
    "AKIAIOSFODNN7EXAMPLE in the documentation",
    "the word ghp_ alone, hf_hub_download(repo), sk-learn",
    "class sk-fading-circle-delay-something-very-long",
    "from transformers import hf_argument_parser_and_more_of_it",
    "password: required field of the form",
    "password = get_password(user)",
    "password = getpass1234()",
    "API key: YOUR_API_KEY_123",
    "secret = os.environ1['X']",
    "password: ************1a",
    "https://user:password@example.org and http://host:8080/a@b",
    "mail me at ann@example.org, see https://example.org:443",
    "4111 1111 1111 1112 fails Luhn",
    "1234567890123456, 0000000000000000",
    "3.1415926535897932, 1700000000000 ms, isbn 9780306406157",
    "DE88 3704 0044 0532 0130 00 is not mod 97",
    "ISO 8601, RFC 2616, the secret of a good tea",
    "-----BEGIN PUBLIC KEY-----\n" + BODY,
    "-----BEGIN PRIVATE KEY----- is how such a file begins.",
    "eyJust a word.eyJust another",
)


@pytest.mark.parametrize("text", TRUE)
def test_finds(text):
    (found,) = secrets.find(text)
    assert found.kind == TRUE[text]
    plain = secrets.redacted(text)
    assert plain == (
        f"{text[: found.start]}[REDACTED {found.kind.upper()}]{text[found.end :]}"
    )
    assert not secrets.find(plain)


@pytest.mark.parametrize("text", FALSE)
def test_does_not_find(text):
    assert secrets.find(text) == []


def test_no_part_of_a_secret_is_left():
    for whole, secret in ((f"x {PEM} y", BODY), (f"secret: {LONG} y", LONG)):
        plain = secrets.redacted(whole)
        assert all(secret[i : i + 8] not in plain for i in range(len(secret) - 8))


def test_places_are_the_text_s_also_where_lower_case_is_longer():
    text = "İİİ password: hunter2!x"
    assert len(text.lower()) > len(text)
    assert secrets.redacted(text) == "İİİ password: [REDACTED PASSWORD]"


def test_every_kind_has_an_example():
    assert {rule.kind for rule in secrets.RULES} == set(TRUE.values())


def test_luhn_is_the_arithmetic_of_the_standard():
    assert secrets.luhn("79927398713")  # the standard's own example
    assert [d for d in range(10) if secrets.luhn(f"7992739871{d}")] == [3]
    assert not secrets.luhn("79927398731")  # two digits swapped


def test_mod97_is_the_arithmetic_of_the_standard():
    # GB82 WEST 1234 5698 7654 32: W=32 E=14 S=28 T=29, G=16 B=11
    assert 3214282912345698765432161182 % 97 == 1
    assert secrets.mod97("GB82WEST12345698765432") == 1
    for check in range(2, 99):
        valid = secrets.mod97(f"GB{check:02}WEST12345698765432") == 1
        assert valid == (check == 82)


def test_samples_are_redacted_however_deep_and_keep_their_place():
    call = {"function": {"name": "pay", "arguments": {"card": "4111111111111111"}}}
    turn = {"role": "assistant", "content": f"ghp_{KEY}", "tool_calls": [call]}
    sample = Placed({"messages": [turn], "tools": [{"doc": f"sk_live_{KEY}"}]}, "a:3")
    counts = secrets.count([sample])
    assert counts == {"GitHub token": 1, "card number": 1, "Stripe key": 1}
    plain = secrets.redacted_sample(sample, again := type(counts)())
    assert again == counts
    assert plain.place == "a:3"
    assert list(secrets.strings(plain)) == [
        "assistant", "[REDACTED GITHUB TOKEN]", "pay", "[REDACTED CARD NUMBER]",
        "[REDACTED STRIPE KEY]",
    ]  # fmt: skip
    assert (
        sample["messages"][0]["content"] == f"ghp_{KEY}"
    )  # the given one is as it was
    assert secrets.listed(counts) == "1 GitHub token, 1 Stripe key, 1 card number"
    assert secrets.listed({"IBAN": 1200, "password": 0}) == "1,200 IBANs"


PIECES = [*TRUE, *FALSE, " ", "\n", "İ", '"', "=", "password", "secret:", "x", "-"]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
@example("secret: x9y8z7w6=password:hunter2x9")  # the second hides the first
def test_redaction_is_idempotent_and_complete(text):
    plain = secrets.redacted(text)
    assert secrets.redacted(plain) == plain
    assert secrets.find(plain) == []
    spans = [(s.start, s.end) for s in secrets.find(text)]
    assert all(a < b for a, b in spans)
    assert all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))


HOSTILE = (
    "password=", "-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaaaa.", "sk-", "hf_", "://",
    "4", "4111 ", "DE89 3704 ", "a", "secret: a1", "bearer ", "Bearer a1A", "://a:b",
    "-----BEGIN PRIVATE KEY-----" + "A" * 64 + "\n", "glpat-" + "a" * 30, "AKIA", "xox",
)  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_linear_time(piece):
    def seconds(size):
        text = piece * (size // len(piece))
        begin = time.process_time()
        secrets.redacted(text)
        return time.process_time() - begin

    short, long = seconds(8_000), seconds(64_000)
    assert long < 24 * short + 0.1  # 8 times the text; quadratic time would be 64 times
