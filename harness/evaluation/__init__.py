"""Score a backbone on the variants of a task with lmms-eval."""
