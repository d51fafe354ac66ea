"""What a run did, for people (HTML) and for programs (JSON)."""
