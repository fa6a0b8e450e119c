"""Train a forecaster in Keras, certify its ONNX graphs and write them as a bundle."""
