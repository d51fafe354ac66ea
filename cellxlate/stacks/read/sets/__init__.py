"""Stacks whose images or planes lie in several files."""
