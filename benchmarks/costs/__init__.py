"""What machinery and storage cost in seconds and bytes."""
