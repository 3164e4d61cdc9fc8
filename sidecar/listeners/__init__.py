"""Where calls come from: listeners, their two directions, and the facts of each connection."""
