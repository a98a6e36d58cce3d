"""The recipe by which the embedded pipeline was trained: scenes, captions, components, loops."""
