"""The journal: what was received, appended before anything else happens to it."""
