"""Every model that can be built small, and what must hold for each; the tests run a share of it."""
