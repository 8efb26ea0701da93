"""Event stores: one append-only log on several engines; ``base`` has the protocol."""
