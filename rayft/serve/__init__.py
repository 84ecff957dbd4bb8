"""Serving of trained networks."""
