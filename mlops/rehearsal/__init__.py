"""Rehearsal of a service on past market data."""
