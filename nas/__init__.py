"""The pipeline: train, profile, search, export; jobs, runners and the command line."""
