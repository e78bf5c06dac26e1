"""The job system: jobs, leases and events in one database, workers that run them, files that they leave. No HTTP here."""
