"""Statistics of arrays, independent of bars, models and stores."""
