"""The table in docs/security.md and the tests agree."""

import re
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


def test_every_test_of_a_threat_or_a_fault_is_in_the_table_and_exists() -> None:
    stated = set(re.findall(r"`(test_\w+)`", (TOP / "docs" / "security.md").read_text(encoding="utf-8")))
    written = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        if path != Path(__file__):
            written |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M))
    assert stated == written
