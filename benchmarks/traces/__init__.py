"""Accesses and requests that are replayed on a simulator, on the store or on a measured table."""
