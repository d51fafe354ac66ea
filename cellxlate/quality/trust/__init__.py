"""Should a result be believed? What windows of input and output say, without a truth."""
