"""Where calls go: clusters, their endpoints, and the connections to them."""
