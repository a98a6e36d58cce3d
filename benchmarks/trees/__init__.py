"""Every schedule of a short run, scored on every prompt: what deciding per prompt can gain."""
