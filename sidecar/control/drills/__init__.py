"""Drills: a fault on purpose, for a bounded time, and a verdict on what callers saw of it."""
