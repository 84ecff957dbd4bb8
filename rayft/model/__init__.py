"""Backbones, heads, freezing."""
