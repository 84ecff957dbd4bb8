"""The package: a sealed folder that holds a trained network and all it takes to use it."""
