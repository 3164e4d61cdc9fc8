"""The dashboard: one page, rendered here, that shows what happens and why. Read on the data loop, drawn in the admin thread."""
