r"""Finds and replaces secrets in text: keys, tokens, passwords, card numbers, IBANs.

A generalist is shared, and a model can repeat what it has learnt word for word. So the
report before training says how many secrets a text holds, and `--redact` replaces each
by `[REDACTED KIND]` before anything is tokenised.

`RULES` is the whole list, as data. A rule is tried only where one of its literals
stands, and takes time that is linear in the text: a repetition is bounded or
possessive, and none can begin within a run of its own characters. The forms of tokens
are those that their issuers document; numbers are checked by arithmetic (Luhn, ISO/IEC
7812; mod 97, ISO 13616); what is only named by the word before it, such as
`password = ...`, must look random.

No function returns or logs a secret: only its kind and where it stands.
"""

from __future__ import annotations

import bisect
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from comigs_mlx.data.splits import Placed, Sample


@dataclass(frozen=True)
class Secret:
    """A secret in a text.

    Attributes:
        kind: The kind of the secret, such as "GitHub token".
        start: The index of its first character.
        end: The index after its last character.
    """

    kind: str
    start: int
    end: int


Check = Callable[[str], int]
"""Takes what a pattern matched, and returns how many of its first characters are a
secret; 0 means that none is."""


@dataclass(frozen=True)
class Rule:
    """The form of one kind of secret.

    Attributes:
        kind: The kind in the singular; its plural has an "s" at the end.
        keys: The strings in lower case with one of which every match begins; without
            any, the whole text is searched.
        pattern: The pattern; its group `secret`, else all of it, is the secret.
        check: The check that a match must pass as well.
    """

    kind: str
    keys: tuple[str, ...]
    pattern: re.Pattern[str]
    check: Check = len


PLACEHOLDER = re.compile(
    r"example|placeholder|change.?me|your[_-]|dummy|sample|redacted|\.\.\.|xxxx|\*\*\*"
    r"|(.)\1{5}|^(?:\$|%|os\.|process\.|env|self\.|https?:|[a-z_.]+\()",
    re.IGNORECASE,
)
"""Text that stands for a secret in documentation and code, and is none."""

RANDOM_BITS = 2.75
"""The least Shannon entropy of the characters of a random word, in bits: 8 characters
of which at least 7 differ have it, `aaaa1111` has 1."""


def _unless_placeholder(text: str) -> int:
    return 0 if PLACEHOLDER.search(text) else len(text)


NO_PASSWORD = {"password", "passwd", "pass", "pwd", "secret", "passwort", "user", "pw"}
"""The words that stand for a password in an address."""


def _no_word(text: str) -> int:
    """Accept a password in an address unless it is the word for one."""
    return 0 if text.lower() in NO_PASSWORD else _unless_placeholder(text)


def _random(text: str) -> int:
    """Accept a word of letters and digits that looks drawn at random."""
    varied = any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
    counts = Counter(text).values()
    bits = -sum(n / len(text) * math.log2(n / len(text)) for n in counts)
    return _unless_placeholder(text) if varied and bits >= RANDOM_BITS else 0


def _mixed(text: str) -> int:
    """Accept a token with digits and letters of both cases; no name in code has all."""
    tests = (str.isdigit, str.isupper, str.islower)
    mixed = all(any(test(c) for c in text) for test in tests)
    return _unless_placeholder(text) if mixed else 0


def luhn(digits: str) -> bool:
    """Tell whether the last of some decimal digits is their check digit.

    Every second digit from the right, but not the last, is doubled and its digits are
    added; the sum of all must be a multiple of 10 (ISO/IEC 7812-1, annex B).
    """
    sums = [int(d) for d in reversed(digits)]
    doubled = [sum(divmod(2 * d, 10)) for d in sums[1::2]]
    return (sum(sums[::2]) + sum(doubled)) % 10 == 0


ISSUER = re.compile(
    r"4\d{15}(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"
    r"|3[47]\d{13}|6(?:011|5\d\d|4[4-9]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}"
    r"|62\d{14}"
)
"""The numbers of Visa, Mastercard, American Express, Discover, Diners, JCB, UnionPay.
"""


def _card(text: str) -> int:
    digits = text.replace(" ", "").replace("-", "")
    various = len(set(digits)) > 1
    return len(text) if various and ISSUER.fullmatch(digits) and luhn(digits) else 0


IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME"
        " RS VA", 23: "AE GI IL IQ TL OM SO", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "FR GR IT MC MR SM BI DJ", 28: "AL AZ BY CY DO"
        " GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC",
        32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""The characters of an IBAN by country, without spaces: SWIFT's IBAN registry."""


def mod97(iban: str) -> int:
    """Return the remainder of an IBAN without spaces, which is 1 for a true one.

    The first four characters go to the end, and letters count as A = 10 ... Z = 35
    (ISO 13616-1, ISO/IEC 7064 MOD 97-10).
    """
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97


def _iban(text: str) -> int:
    """Accept the first characters of a match, as many as the country's IBANs have."""
    length = IBAN_LENGTHS.get(text[:2], 0)
    places = [i for i, character in enumerate(text) if character != " "][:length]
    if len(places) < max(length, 1):
        return 0
    end = places[-1] + 1
    is_whole = end == len(text) or text[end] == " "
    return end if is_whole and mod97(text[:end].replace(" ", "")) == 1 else 0


def _token(prefix: str, rest: str) -> re.Pattern[str]:
    """Make the pattern of a token that begins so and ends where its characters do."""
    return re.compile(rf"(?<![A-Za-z0-9_-])(?:{prefix}){rest}+(?![A-Za-z0-9_-])")


def _named(kind: str, words: Iterable[str]) -> Rule:
    """Make the rule for a value that one of some words announces."""
    keys = tuple(words)
    pattern = re.compile(
        rf"(?:{'|'.join(map(re.escape, keys))})[\"']?[ \t]{{0,3}}(?:=>|:=|[:=])"
        r"[ \t]{0,3}[\"'`]?(?P<secret>[^\s\"'`,;<>()\[\]{}\\|]{8,}+)(?!\()",
        re.IGNORECASE,
    )
    return Rule(kind, keys, pattern, _random)


def _spelled(*words: str) -> Iterable[str]:
    """Yield each word with a blank as it is written in prose, in code and in one."""
    for word in words:
        yield from dict.fromkeys(word.replace(" ", gap) for gap in ("_", "-", "", " "))


KEY_BODY = (
    r"(?:\s|\\n|\\r)*+(?:[A-Z][A-Za-z-]{2,20}: [^\n]{0,100}\n\s*+){0,4}+"
    r"[A-Za-z0-9+/=]{40,}+(?:(?:\s|\\n|\\r)++[A-Za-z0-9+/=]{16,}+)*+"
    r"(?:(?:\s|\\n|\\r)++[A-Za-z0-9+/=]{1,15}+)?+"
)
"""Lines of base64, maybe with "\\n" for their ends, maybe after some headers."""

RULES = (
    Rule(
        "private key",
        ("-----begin ",),
        re.compile(
            rf"-----BEGIN [A-Z0-9 ]{{0,30}}PRIVATE KEY(?: BLOCK)?-----{KEY_BODY}"
            r"(?:(?:\s|\\n|\\r)*+-----END [A-Z0-9 ]{0,50}-----)?"
        ),
    ),
    Rule(
        "AWS key",
        ("akia", "asia"),
        _token("AKIA|ASIA", "[A-Z0-9]{16}"),
        _unless_placeholder,
    ),
    Rule(
        "GitHub token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        _token("gh[pousr]_|github_pat_", "[A-Za-z0-9_]{36,255}"),
        _unless_placeholder,
    ),
    Rule(
        "GitLab token",
        ("glpat-",),
        _token("glpat-", "[A-Za-z0-9_.-]{20,255}"),
        _unless_placeholder,
    ),
    Rule(
        "Slack token",
        ("xox", "xapp-", "hooks.slack.com/services/"),
        re.compile(
            r"(?<![A-Za-z0-9_-])(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{16,255}+"
            r"|hooks\.slack\.com/services/"
            r"(?P<secret>T[A-Z0-9]{6,14}/B[A-Z0-9]{6,14}/[A-Za-z0-9]{16,40}+)"
        ),
        _unless_placeholder,
    ),
    Rule(
        "Stripe key",
        ("sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_"),
        _token("[sr]k_(?:live|test)_|whsec_", "[A-Za-z0-9]{16,255}"),
        _unless_placeholder,
    ),
    Rule("Google API key", ("aiza",), _token("AIza", "[A-Za-z0-9_-]{35}"), _mixed),
    Rule("Hugging Face token", ("hf_",), _token("hf_", "[A-Za-z0-9]{30,60}"), _mixed),
    Rule(
        "Anthropic key", ("sk-ant-",), _token("sk-ant-", "[A-Za-z0-9_-]{24,}"), _mixed
    ),
    Rule("OpenAI key", ("sk-",), _token("sk-", "[A-Za-z0-9_-]{24,}"), _mixed),
    Rule(
        "JSON web token",
        ("eyj",),
        re.compile(
            r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+"
            r"\.[A-Za-z0-9_-]{8,}+"
        ),
    ),
    Rule(
        "bearer token",
        ("bearer ",),
        re.compile(
            r"\bbearer[ \t]{1,3}(?P<secret>[A-Za-z0-9._~+/=-]{20,}+)", re.IGNORECASE
        ),
        _mixed,
    ),
    Rule(
        "URL password",
        ("://",),
        re.compile(
            r"(?<=[A-Za-z0-9])://[^\s/@:\"'<>]{0,100}:"
            r"(?P<secret>[^\s/@\"'<>\[\]{}]{3,200})@(?=\w)"
        ),
        _no_word,
    ),
    Rule(
        "card number",
        (),
        re.compile(
            r"(?<![\w.+])(?<!\d-)(?:[2-6]\d{3}(?P<sep>[ -]?)\d{4}(?P=sep)\d{4}(?P=sep)"
            r"\d{4}(?:(?P=sep)\d{3})?|3\d{3}(?P<gap>[ -]?)\d{6}(?P=gap)\d{4,5})"
            r"(?!\w|[.-]\d)"
        ),
        _card,
    ),
    Rule(
        "IBAN",
        (),
        re.compile(
            r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"
            r"(?![A-Za-z0-9])"
        ),
        _iban,
    ),
    _named(
        "password",
        (
            *("password", "passwd", "passphrase", "pwd", "passwort", "kennwort"),
            *("mot de passe", "contraseña", "senha", "wachtwoord", "parola"),
        ),
    ),
    _named(
        "API key",
        (
            *_spelled("api key", "access key", "api token", "access token"),
            *("secret_key", "secretkey", "private_key", "privatekey", "accountkey"),
            *("signing_key", "encryption_key", "auth_token", "refresh_token"),
            *("bot_token", "secret"),
        ),
    ),
)
"""All kinds of secrets. Where two find the same text, the one that stands first
counts."""

LONG = 500
"""The characters of a match that was refused from which on nothing within it is tried,
so that text that is hostile takes linear time as well."""

ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def find(text: str) -> list[Secret]:
    """Find the secrets of a text, in order and without overlaps."""
    lower = text.lower()
    if len(lower) != len(text):  # as of a Turkish dotted capital I
        lower = text.translate(ASCII_LOWER)
    found: list[Secret] = []
    for rule in RULES:
        more = _by_rule(rule, text, lower)
        found = _merged(found, more) if found and more else found or more
    return found


def _by_rule(rule: Rule, text: str, lower: str) -> list[Secret]:
    """Find the secrets of one kind, in order."""
    found, at = [], 0
    places = iter(_places(rule.keys, lower))
    while (match := _next(rule, text, at, places)) is not None:
        group = "secret" if match.groupdict().get("secret") is not None else 0
        start, length = match.start(group), rule.check(match[group])
        at = match.start() + 1
        if length:
            found.append(Secret(rule.kind, start, start + length))
            at = start + length
        elif match.end() - match.start() > LONG:
            at = match.end()
    return found


def _next(
    rule: Rule, text: str, at: int, places: Iterator[int]
) -> re.Match[str] | None:
    """Return the first match that begins at `at` or after it."""
    if not rule.keys:
        return rule.pattern.search(text, at)
    later = (place for place in places if place >= at)
    matches = (rule.pattern.match(text, place) for place in later)
    return next((match for match in matches if match is not None), None)


def _places(keys: Iterable[str], lower: str) -> list[int]:
    places = set()
    for key in keys:
        at = lower.find(key)
        while at >= 0:
            places.add(at)
            at = lower.find(key, at + 1)
    return sorted(places)


def _merged(found: list[Secret], more: list[Secret]) -> list[Secret]:
    """Add what overlaps nothing that was found before; both are in order."""
    ends = [secret.end for secret in found]
    new = []
    for secret in more:
        after = bisect.bisect_right(ends, secret.start)
        if after == len(ends) or secret.end <= found[after].start:
            new.append(secret)
    return sorted([*found, *new], key=lambda secret: secret.start)


def redacted(text: str) -> str:
    """Return the text with `[REDACTED KIND]` in place of each secret.

    It is a function of the text alone, and changes nothing when it is applied again.
    """
    return _redacted(text, Counter())


def _redacted(text: str, counts: Counter[str]) -> str:
    """Replace secrets until none is found, and count them by kind.

    Once is not always enough: what is replaced may have hidden the beginning of another
    one. It ends because no rule takes a bracket into a secret, so each turn replaces
    characters that were there before.
    """
    while secrets := find(text):
        parts, at = [], 0
        for secret in secrets:
            counts[secret.kind] += 1
            parts += [text[at : secret.start], f"[REDACTED {secret.kind.upper()}]"]
            at = secret.end
        text = "".join([*parts, text[at:]])
    return text


def redacted_sample(sample: Sample, counts: Counter[str]) -> Sample:
    """Return a sample with redacted strings, however deep they lie, and its place.

    Args:
        sample: A sample of any kind.
        counts: Maps a kind to the number of secrets; what is replaced is added.
    """
    changed = {name: _redacted_value(value, counts) for name, value in sample.items()}
    return Placed(changed, sample.place) if isinstance(sample, Placed) else changed


def _redacted_value(value: Any, counts: Counter[str]) -> Any:
    if isinstance(value, str):
        return _redacted(value, counts)
    if isinstance(value, list):
        return [_redacted_value(inner, counts) for inner in value]
    if isinstance(value, dict):
        return {key: _redacted_value(inner, counts) for key, inner in value.items()}
    return value


def strings(value: Any) -> Iterable[str]:
    """Yield every string of a sample, or of a part of one, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def count(samples: Iterable[Sample]) -> Counter[str]:
    """Count the secrets of samples by kind."""
    return Counter(s.kind for one in samples for t in strings(one) for s in find(t))


def listed(counts: dict[str, int] | Counter[str]) -> str:
    """Write counts by kind, such as "2 passwords, 1 IBAN", the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n:,} {kind}{'s' * (n != 1)}" for kind, n in ordered if n)
