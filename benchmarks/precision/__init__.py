"""Precision that is given up, made up for, and graded."""
