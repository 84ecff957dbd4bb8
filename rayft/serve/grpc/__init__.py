"""The Open Inference Protocol v2 over gRPC; knows neither Ray nor TensorFlow."""
