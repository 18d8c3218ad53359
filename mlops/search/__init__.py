"""The search of one training: recipes walked forward in time, tuned, and ranked; knows no store."""
