"""Places outside of the run's folder that hear of a run while it goes on."""
