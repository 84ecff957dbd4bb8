"""Versioned models on any storage: an immutable log for each name, whose fold is the state."""
