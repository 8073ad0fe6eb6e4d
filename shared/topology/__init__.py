"""Where Redis is: one server, a master that Sentinel knows, or a Cluster."""
