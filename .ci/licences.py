"""List the licences of what cellxlate needs: `python .ci/licences.py [extra ...]`, as a table in Markdown.

Reads the installed packages; what an extra needs is listed where it is installed. Exits with 1 where a package that
the core needs states no licence.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution


def needed(name: str, extras: set[str], found: dict[str, str]) -> None:
    """Add a package, and all that it needs, with their licences."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return
    key = re.sub("[-_.]+", "-", package.metadata["Name"]).lower()
    if key in found:
        return
    found[key] = licence(package.metadata)
    for line in package.requires or ():
        condition = line.partition(";")[2]
        wanted = re.search(r"extra\s*==\s*['\"]([^'\"]+)", condition)
        if wanted is None or (name == "cellxlate" and wanted[1] in extras):
            match = re.match(r"[A-Za-z0-9._-]+", line)
            if match:
                needed(match[0], set(), found)


def licence(metadata) -> str:
    """Return the licence that a package states, in a few words."""
    stated = [name.rpartition("::")[2].strip() for name in metadata.get_all("Classifier", ()) if "License ::" in name]
    text = metadata.get("License-Expression") or ", ".join(stated) or (metadata.get("License") or "").split("\n")[0]
    return text[:80] or "not stated"


def main(extras: list[str]) -> int:
    """Print the table."""
    found: dict[str, str] = {}
    needed("cellxlate", set(extras), found)
    print("| package | version | licence |\n|---|---|---|")
    for name, text in sorted(found.items()):
        print(f"| {name} | {distribution(name).version} | {text} |")
    return int("not stated" in found.values() and not extras)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
