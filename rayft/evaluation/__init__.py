"""What a trained network is worth: predictions, figures over them, calibration."""
