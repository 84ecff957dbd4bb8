"""Runs as jobs of a remote cluster, through Ray's job API."""
