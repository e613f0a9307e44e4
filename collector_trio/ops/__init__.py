"""How operators see what runs: logging now; metrics, census, alerts and the status page build on it."""
