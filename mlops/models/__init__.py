"""Forecasters: each maps a dataset to forecasts in its target's own unit."""
