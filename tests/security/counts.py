"""Count the kinds of bad input and of faults that tests cover: `python tests/security/counts.py`.

A kind is a case of a test in this folder that docs/security.md names in a table: another input, or another fault.
"""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

THIS_PROCESS = Path(__file__).parent


class Collected:
    """Keeps the names of what pytest collects."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Count the cases of each function."""
        self.names.update(item.nodeid.partition("::")[2].partition("[")[0] for item in items)


def stated(title: str) -> set[str]:
    """Return the tests that a table of docs/security.md names."""
    text = (THIS_PROCESS.parents[1] / "docs" / "security.md").read_text(encoding="utf-8")
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return {name for line in section.splitlines() if line[:1] == "|" for name in re.findall(r"`(test_\w+)`", line)}


def main() -> int:
    """Print the counts."""
    found = Collected()
    code = pytest.main(["--collect-only", "-qq", "--no-summary", str(THIS_PROCESS)], plugins=[found])
    for title, what in (("Threats", "bad input"), ("Faults", "faults")):
        functions = stated(title)
        print(f"{sum(found.names[name] for name in functions)} kinds of {what}, in {len(functions)} tests")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
