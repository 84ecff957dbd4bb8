"""The network of a package in the formats of other runtimes."""
