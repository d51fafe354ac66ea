"""Input against output."""
