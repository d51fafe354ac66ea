"""`python -m cellxlate` is the command `cellxlate`."""

from cellxlate.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
