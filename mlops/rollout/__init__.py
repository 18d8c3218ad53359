"""Versions going live: plans, the pure decisions, their evidence, and the leased controller."""
