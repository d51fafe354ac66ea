"""What was changed and whether to believe it: scores, checks, reports."""
