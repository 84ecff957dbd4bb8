"""The part of a sweep that needs Ray: trials, their conductor, the whole search."""
