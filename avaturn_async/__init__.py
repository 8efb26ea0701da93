"""Async Python SDK for the Avaturn API."""
