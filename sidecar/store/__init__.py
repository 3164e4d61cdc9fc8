"""What workers or hosts decide together: limits, budgets, records. One small interface; memory, SQLite, Redis."""
