"""Lives: a stream is a loop around a session, a session is the scope of one connection."""
