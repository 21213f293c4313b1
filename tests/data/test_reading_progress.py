"""How far reading is, told where it takes long."""

from comigs_mlx.data import reading_progress


def test_a_line_is_said_where_the_work_takes_long(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(reading_progress.time, "monotonic", lambda: now[0])
    said = []
    advance = reading_progress.in_sentences(said.append)
    for done in range(0, 5000, 500):
        advance("files", done, 5000)
        now[0] += 4.0
    advance("rows", 7, None)
    assert said == [
        "reading: 1,500 of 5,000 files",
        "reading: 3,000 of 5,000 files",
        "reading: 4,500 of 5,000 files",
    ]
