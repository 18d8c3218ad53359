"""Monitoring of what is live: drift, lost skill, data quality and system health."""
