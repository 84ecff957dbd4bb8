"""Checks the files of ``deploy/``, and those that users derive from them, without a cluster.

Run it from the repository's root: ``python -m deploy.check``; deploy/README.md says what it looks at.
"""
