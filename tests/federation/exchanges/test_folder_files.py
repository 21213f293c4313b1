"""What is listed of a folder that others, and their programs, write to."""

import os

import pytest

from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.exchanges.folder_files import (
    FileStamp,
    is_stray,
    read_file,
    stamp_of,
    walk,
)

LEFT_BEHIND = [
    "Thumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "Desktop.ini",
    "adapters (ann's conflicted copy 2026-11-27).safetensors",
    "contribution (conflicted copy 2026-11-27 101010).json",
    "contribution_conflict-20261127-101010.json",
    "contribution (SFConflict ann@example.org 2026-11-27).json",
    "adapters.sync-conflict-20261127-101010-ABCDEFG.safetensors",
    "contribution (1).json",
    "contribution - Copy.json",
    "contribution - Copy (2).json",
    "~$contribution.json",
    "~syncthing~adapters.safetensors.tmp",
    "contribution.json~",
    "adapters.safetensors.part",
    "adapters.safetensors.crdownload",
    "contribution.json.orig",
    ".DS_Store",
    "Icon\r",
]
OURS = [
    "adapters.safetensors",
    "contribution.json",
    "round.json",
    "federation.json",
    "README.md",
    "accepted.json",
    "generalist-1/adapters.safetensors",
]


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_programs_leave_behind_is_not_listed(tmp_path, name):
    pool = FolderExchange(tmp_path)
    pool.commit({"contributions/1/ann/contribution.json": b"{}"}, "one")
    place = tmp_path / "contributions" / "1" / "ann" / name
    place.write_bytes(b"left behind")
    before = pool.snapshot()
    assert set(before.files) == {"contributions/1/ann/contribution.json"}
    (tmp_path / "contributions" / "1" / name).mkdir()
    (tmp_path / "contributions" / "1" / name / "contribution.json").write_bytes(b"{}")
    assert pool.snapshot() == before  # a folder too; nor does it move anybody's lock
    assert place.read_bytes() == b"left behind"


@pytest.mark.parametrize(
    "name", [*OURS, "a", "conflict", "no-conflict-here", "conflicted", "icon", "tmp",
             "part", "thumbs-db", "copy", "ann-1", "bak", "a-conflicted-copy"],
)  # fmt: skip
def test_ours_and_participants_are_listed(name):
    assert not any(is_stray(part) for part in name.split("/"))


def test_a_link_swapped_in_between_listing_and_reading_is_not_followed(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"private")
    pool = FolderExchange(tmp_path / "pool")
    pool.create()
    pool.commit({"a.txt": b"ours!!!"}, "one")
    now, file = pool.snapshot(), pool.root / "a.txt"
    entry = stamp_of(file.stat())
    os.utime(secret, ns=(entry.time, entry.time))
    assert stamp_of(secret.stat()) == entry == FileStamp(7, entry.time)
    file.unlink()
    file.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic|Too many levels"):
        read_file(file, entry)
    with pytest.raises(Exception, match="is a link|not read"):
        pool.read("a.txt", now.revision, 99)
    assert dict(walk(pool.root)) == {}
