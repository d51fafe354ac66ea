"""What was changed and whether to believe it: checks, a judge without truth, reports."""
