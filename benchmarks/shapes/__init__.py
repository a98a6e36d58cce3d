"""What reads the scenes that the embedded pipeline draws."""
