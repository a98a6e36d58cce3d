"""Beside the main road: an upscaler for coarse first steps, and the edit steps of a GAN."""
