from __future__ import annotations

import pytest

from comigs_mlx.errors import ConfigError, DataError
from comigs_mlx.simulation.datasets.partition import label


def test_a_participant_owns_all_of_its_label() -> None:
    labels = ["World", "Sci/Tech", "World", " Sports! "]
    assert label.assign(labels, None, 0) == ["world", "sci-tech", "world", "sports"]


def test_another_number_of_participants_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        label.assign(["a", "b"], 3, 0)
    assert str(error.value) == (
        "--participants 3: by label there are as many as labels, 2: leave it out, or "
        "choose another --by"
    )


def test_labels_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(DataError, match="labels 'A b' and 'a-b' are both the folder"):
        label.assign(["a-b", "A b"], None, 0)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../x", "x"),
        ("!!", "label"),
        ("Über uns_x", "uber-uns-x"),
        ("x" * 99, "x" * 39),
    ],
)
def test_a_label_cannot_leave_the_folder(text: str, name: str) -> None:
    assert label.folder_name(text) == name
