"""Bridge to lmms-eval: task objects in memory, and lmms-eval's own tasks."""
