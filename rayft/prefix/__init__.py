"""The cache of activations at the freeze boundary."""
