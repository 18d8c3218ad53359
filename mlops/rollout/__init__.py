"""Rollouts: their plans, evidence, pure decisions, and the controller that carries them out."""
