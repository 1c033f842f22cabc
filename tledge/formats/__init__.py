"""Reading .tflite and .onnx files: operators, metadata, activations."""
