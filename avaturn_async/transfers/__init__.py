"""Photo uploads and file downloads, over ClientSessions that know neither the token nor a session of the caller."""
