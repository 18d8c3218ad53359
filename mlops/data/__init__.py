"""Market data: complete, validated bars with provenance, and the splits of training by time."""
