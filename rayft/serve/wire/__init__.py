"""The forms of requests and answers: bytes to pictures, probabilities to bytes; neither Ray nor TensorFlow."""
