"""What runs on a target: asks the service for models to measure, measures them, and sends what it measured."""
