"""Hides what nobody else should read in a text: tokens, passwords in addresses."""

from __future__ import annotations

import re

PATTERNS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=//)[^/@\s]*@", "***@"),  # https://ann:secret@host
        (r"\b([^\s/:@]+):[^\s/@]+@(?=[\w-]+\.)", r"\1:***@"),  # ann:secret@host
        (r"(?i)\b(bearer|basic)\s+\S+", r"\1 ***"),
        (r"(?i)([?&;](access_)?(token|key|password|auth)=)[^&\s]+", r"\1***"),
        (r"(?<![^\W_])(hf|api|ghp|gho|github_pat)_[^\s/@:'\"]+", "***"),
        (r"\beyJ[\w.-]+", "***"),
    )
)
"""Pairs of a pattern that finds a secret, and of what replaces it."""


def clean(text: str) -> str:
    """Hide what could be a token, a header or an address that carries one."""
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text
