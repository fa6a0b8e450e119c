"""Score Parquet with a certified forecaster: numpy, pyarrow and onnxruntime, never TensorFlow."""

__version__ = "0.1.0"
