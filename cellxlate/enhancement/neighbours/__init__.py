"""The planes beside a plane: whether they are seen, and how each is read and looked at once."""
