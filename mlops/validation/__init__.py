"""What forecasts are worth: evaluation with intervals, and the gates a candidate must pass."""
