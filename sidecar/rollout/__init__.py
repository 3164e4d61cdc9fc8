"""Rolling out a version and back: who judges it (`analysis`, `sequential`), what follows (`progress`), and what does it (`controller`)."""
