"""Training: one candidate, walk-forward forecasts, and the search over recipes."""
