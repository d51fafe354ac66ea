"""A model learns from the stack that it will enhance."""
