"""Protocols and metrics. A number without its protocol is not a number."""
