"""The service over HTTP: who may ask for what, the routes under /v1, and live events."""
