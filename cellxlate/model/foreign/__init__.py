"""Networks that others made, as ONNX files and packages: what they take, how far they look, what they may ask for."""
