"""How far an ONNX graph looks, told from its operators: halo, stride, sizes, or what looks at everything."""
