"""Judgement of forecasts: evaluation with intervals, and the gates a candidate must pass."""
