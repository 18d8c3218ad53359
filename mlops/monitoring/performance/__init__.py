"""Live performance: outcomes, figures beside the promotion, and lost skill."""
