"""Is what is live still right? Drift of the data, lost skill, and what to do about either."""
