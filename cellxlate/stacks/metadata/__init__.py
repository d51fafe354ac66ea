"""What a file states beside its pixels, read and written again."""
