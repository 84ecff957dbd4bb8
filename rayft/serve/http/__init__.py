"""The endpoint over HTTP: REST forms, limits, keys; knows neither Ray nor TensorFlow."""
