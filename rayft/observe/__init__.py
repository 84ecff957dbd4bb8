"""What a run shows of itself while it goes on: metrics, a log of events, a profile."""
