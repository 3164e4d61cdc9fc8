"""What the sidecar costs beside other proxies; `python -m bench`."""
