"""Everything that owns a socket: dialling, WebSocket connections (`connect`), HTTP clients (`http`) and the budgets
they dial within.

Knows nothing of exchanges, journals or streams. Nothing outside this folder may open a connection.
"""
