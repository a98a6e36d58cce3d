"""What measures speed, memory, learning and safety: files are scripts, folders what they share."""
