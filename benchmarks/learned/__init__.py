"""What learning gains: over schedules, over rules, without its parts, and in new environments."""
