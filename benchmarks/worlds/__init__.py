"""Worlds that move: what adapting to them is worth."""
