"""Text without what nobody else should read: tokens, passwords in addresses."""

from __future__ import annotations

import re

PATTERNS = tuple(
    (re.compile(pattern), kept)
    for pattern, kept in (
        (r"(?<=//)[^/@\s]*@", "***@"),  # https://ann:secret@host
        (r"\b([^\s/:@]+):[^\s/@]+@(?=[\w-]+\.)", r"\1:***@"),  # ann:secret@host
        (r"(?i)\b(bearer|basic)\s+\S+", r"\1 ***"),
        (r"(?i)([?&;](access_)?(token|key|password|auth)=)[^&\s]+", r"\1***"),
        (r"(?<![^\W_])(hf|api|ghp|gho|github_pat)_[^\s/@:'\"]+", "***"),
        (r"\beyJ[\w.-]+", "***"),
    )
)
"""What hides a secret, and what stays of it."""


def clean(text: str) -> str:
    """`text` without what could be a token, a header or an address that carries one."""
    for pattern, kept in PATTERNS:
        text = pattern.sub(kept, text)
    return text
