"""Champion against challenger on the same bars: pairs, their statistics, verdicts."""
