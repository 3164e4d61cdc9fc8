"""Client libraries, one folder per language."""
