"""When: what starts processes and schedules, and the one place that composes all rooms."""
