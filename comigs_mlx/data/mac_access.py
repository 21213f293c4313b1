"""What macOS keeps from programs, such as mail and messages, and how to allow it."""

from __future__ import annotations

import errno

ADVICE = (
    "macOS lets no program read your mail and messages unasked: open System Settings > "
    "Privacy & Security > Full Disk Access, switch it on for the program you run this "
    "in (such as Terminal), and start that program anew; or copy the files to another "
    "folder"
)


def reason(error: OSError) -> str:
    """Say why a file or folder cannot be read, and what helps where macOS forbids it.

    Files that belong to others give EACCES; what macOS protects gives EPERM.
    """
    said = error.strerror or type(error).__name__
    return f"{said}: {ADVICE}" if error.errno == errno.EPERM else said
