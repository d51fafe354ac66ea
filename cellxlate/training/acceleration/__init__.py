"""The same training in less time."""
