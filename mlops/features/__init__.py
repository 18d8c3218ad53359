"""Features and targets of bars: causal features, labels with known times, windows without holes."""
