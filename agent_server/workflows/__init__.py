"""Workflows: steps that use tools, in the order of what they need from each other. `templates` has those that are shipped."""
