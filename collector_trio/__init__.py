"""collector_trio records what crypto exchanges publish; a connection is a scope, so it cannot be leaked."""

__version__ = "0.1.0"
