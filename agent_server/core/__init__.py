"""What every agent runs on: finding, checking and running operations, their events, sessions and failures."""
