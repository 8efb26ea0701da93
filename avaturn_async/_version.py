"""The one place of the version; hatchling reads it from here."""

__version__ = "0.1.0"
"""The release that is installed, by Semantic Versioning."""
