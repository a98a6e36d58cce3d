"""What is done to attached pipelines in any order, and what must hold meanwhile and afterwards."""
