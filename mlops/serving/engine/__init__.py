"""The engine: models in memory, and forecasts from them in batches."""
