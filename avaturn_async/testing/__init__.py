"""A server that stands in for Avaturn in tests, demos and front-end work."""
