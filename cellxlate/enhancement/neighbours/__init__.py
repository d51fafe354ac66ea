"""Whether the planes beside a plane help it."""
