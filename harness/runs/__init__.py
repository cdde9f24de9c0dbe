"""Turn suites into runs, and runs into records."""
