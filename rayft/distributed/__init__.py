"""What needs Ray: workers, their monitor, runs and proofs."""
