"""Contenders side by side in one run: who draws, what is kept, frontiers, how they are shown."""
