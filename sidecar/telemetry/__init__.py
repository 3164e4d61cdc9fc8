"""What the sidecar tells about itself: names, metrics, logs."""
