"""docs/reliability.md names tests: each must exist, and no row of the list may be missing."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_every_test_that_the_page_names_exists() -> None:
    defined = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^\s*(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 60
    assert named - defined == set()


def test_each_of_the_sixty_four_rows_is_there_once_and_says_what_holds_it() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
    assert sorted(int(number) for number, _, _ in rows) == list(range(1, 65))
    for number, _, held in rows:
        assert "`test_" in held or "cannot be" in held, number
