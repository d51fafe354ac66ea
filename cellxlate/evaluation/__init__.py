"""Results scored against truth and masks."""
