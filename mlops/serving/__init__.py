"""Serves forecasts over HTTP: the models that one process holds, and how requests reach them.

A process (a replica) holds champion, challenger, previous champion and baseline of each service
and picks one for each request by the route it last read from the store. It goes on answering
while the store, the registry and every other process are away.
"""
