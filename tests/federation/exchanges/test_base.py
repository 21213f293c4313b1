"""What a listing says of a file, and what was read of it."""

import hashlib

import pytest

from comigs_mlx.federation.exchanges.base import File, Unreachable, blob_of, undamaged

CONTENT = b"what ann contributed"
OTHER = CONTENT[:-1] + b"!"  # of the same size
SIZE, SHA256 = len(CONTENT), hashlib.sha256(CONTENT).hexdigest()

ENTRIES = {
    "lfs": File(SIZE, SHA256),
    "git": File(SIZE, None, blob_of(CONTENT)),
    "folder": File(SIZE),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_the_content_itself_passes(kind):
    assert undamaged("a.json", ENTRIES[kind], CONTENT) == CONTENT


@pytest.mark.parametrize("kind", ENTRIES)
@pytest.mark.parametrize("damaged", [CONTENT[:-1], CONTENT + b"\0", b"", OTHER])
def test_what_is_damaged_is_the_lines_fault(kind, damaged):
    if kind == "folder" and damaged == OTHER:  # there is no hash to compare with
        assert ENTRIES[kind].has(damaged)
        return
    with pytest.raises(Unreachable, match=r"a\.json was damaged on its way here"):
        undamaged("a.json", ENTRIES[kind], damaged)


def test_git_names_a_file_as_git_does():
    """The empty blob's name stands in every git repository."""
    assert blob_of(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
