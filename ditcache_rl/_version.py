"""The version of the package, where everything that records it can import it from."""

__version__ = "0.1.0"
