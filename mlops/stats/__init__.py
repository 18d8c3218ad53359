"""Statistics that know nothing of bars, models or stores: arrays in, numbers out."""
