"""Webhooks of Avaturn: verified, stored and brought to whoever opened the session."""
