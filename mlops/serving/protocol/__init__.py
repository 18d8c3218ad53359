"""The protocols of requests: bytes to windows, forecasts to bytes."""
