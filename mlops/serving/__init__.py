"""Forecasts for whoever asks: the models one process holds, and how requests reach them.

A process holds champion, challenger, previous champion and baseline of each service and deals
requests by the route it last saw. It answers while the store, the registry and every other
process are away.
"""
