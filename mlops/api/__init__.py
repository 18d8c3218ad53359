"""The HTTP API: routes over `MLOpsManager`, one file a noun."""
