"""What is counted part by part."""

from dataclasses import dataclass
from typing import Self


@dataclass
class Sums:
    """Numbers that add up: of each field of what inherits it, the sum over parts."""

    def include(self, other: Self) -> None:
        """Add another part."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
