"""What a world that moves is worth: where opponents play what a policy ships."""
