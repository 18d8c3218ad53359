"""Order: each flow reads as a list of verbs."""
