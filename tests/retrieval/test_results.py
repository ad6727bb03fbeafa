"""What a result prints."""

from __future__ import annotations

from retrieval.results import Hit, Result


def test_ids_and_labels_print_without_control_characters() -> None:
    """A file name or a label may hold what a terminal would obey."""
    hit = Hit(1, "new\nline\x1b[31m", 0.5, None, {"color": "re\td\x9b"})
    text = Result((hit,), (), {}, 1.0, {}).text()
    assert text.splitlines()[1:] == ["  1  new line [31m  0.500  color=re d "]
