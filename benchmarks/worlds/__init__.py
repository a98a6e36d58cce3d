"""Worlds that move: deadlines under load, memory that has a price, many requests."""
