"""Task definitions for lmms-eval: one YAML and one module a task."""
