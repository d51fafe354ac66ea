"""What runs the networks: torch, OpenVINO, ONNX Runtime; numpy in, numpy out."""
