"""A server under load: clients over HTTP, and deadlines in bursts."""
