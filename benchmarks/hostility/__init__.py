"""Files of strangers: hostile ones, and good ones changed at random, read under watch."""
