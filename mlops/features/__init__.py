"""From bars to what a model sees: causal features, dated targets, windows without holes."""
