"""Alerts: the rules that raise and end them, and their delivery to people."""
